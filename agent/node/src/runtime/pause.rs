//! The sandbox image, made from nothing: a static program that sleeps for ever.
//!
//! Invariants
//! - The image is a function of nothing but this file: two calls give the same bytes.
//!
//! The program ignores SIGCHLD, so the kernel reaps orphans that a shared PID namespace gives it,
//! exits 0 on SIGTERM and SIGINT, and sleeps in `pause(2)` otherwise.

use super::archive::{Entry, Image};

/// x86-64 machine code. Each `rt_sigaction` sets `SA_RESTORER`, as the kernel demands.
fn program() -> Vec<u8> {
    let mut code = Vec::new();
    // SIGCHLD (17): SIG_IGN. SIGTERM (15), SIGINT (2): the handler. Structures follow the code.
    for (signal, action) in [(17u32, 0usize), (15, 1), (2, 1)] {
        code.extend([0xb8, 13, 0, 0, 0]); // mov eax, SYS_rt_sigaction
        code.push(0xbf); // mov edi, signal
        code.extend(signal.to_le_bytes());
        code.push(0xbe); // mov esi, action
        code.extend(address(ACTIONS + 32 * action).to_le_bytes());
        code.extend([0x31, 0xd2]); // xor edx, edx
        code.extend([0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
        code.extend([0x0f, 0x05]); // syscall
    }
    code.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05]); // mov eax, SYS_pause; syscall
    code.extend([0xeb, 0xf7]); // jmp back to it
    debug_assert!(code.len() <= HANDLER);
    code.resize(HANDLER, 0x90);
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0xb8, 231, 0, 0, 0, 0x0f, 0x05]); // mov eax, SYS_exit_group; syscall
    code.resize(ACTIONS, 0x90);
    code.extend(action(1)); // SIG_IGN
    code.extend(action(u64::from(address(HANDLER))));
    code
}

/// Offsets from the start of the code.
const HANDLER: usize = 112;
const ACTIONS: usize = 128;
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;

fn address(offset: usize) -> u32 {
    u32::try_from(BASE as usize + HEADERS + offset).expect("the image is smaller than 4 GiB")
}

/// `struct sigaction` of the kernel: handler, flags, restorer, mask.
fn action(handler: u64) -> [u8; 32] {
    const SA_RESTORER: u64 = 0x0400_0000;
    let mut out = [0; 32];
    out[..8].copy_from_slice(&handler.to_le_bytes());
    out[8..16].copy_from_slice(&SA_RESTORER.to_le_bytes());
    // The handler never returns, so any address will do for the restorer.
    out[16..24].copy_from_slice(&u64::from(address(HANDLER)).to_le_bytes());
    out
}

/// A static x86-64 ELF executable.
fn elf() -> Vec<u8> {
    let code = program();
    let size = (HEADERS + code.len()) as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(2u16.to_le_bytes()); // ET_EXEC
    out.extend(62u16.to_le_bytes()); // x86-64
    out.extend(1u32.to_le_bytes());
    out.extend((BASE + HEADERS as u64).to_le_bytes()); // entry
    out.extend(64u64.to_le_bytes()); // program headers
    out.extend(0u64.to_le_bytes()); // no sections
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes()); // PT_LOAD
    out.extend(5u32.to_le_bytes()); // read, execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        out.extend(word.to_le_bytes());
    }
    out.extend(code);
    out
}

/// The archive of an image named `reference`, holding only the pause program.
#[must_use]
pub fn archive(reference: &str) -> Vec<u8> {
    let program = elf();
    let entries = vec![Entry::Program("pause", &program)];
    Image { reference, entries, entrypoint: &["/pause"], command: &[], user: "65535:65535" }.archive()
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    #[test]
    fn the_program_sleeps_until_told_to_end() {
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        let path = std::env::temp_dir().join(format!("kontiki-pause-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).expect("writes");
        file.write_all(&elf()).expect("writes");
        file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("chmod");
        drop(file);
        let mut child = Command::new(&path).spawn().expect("runs");
        let stat = format!("/proc/{}/wchan", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // It is asleep once the signals are set: SIGTERM before that would kill it.
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("lives");
            let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).map(str::trim).map(str::to_owned);
            if caught.as_deref() == Some("0000000000004002") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{stat}: {status}");
            std::thread::yield_now();
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid")),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("signals");
        assert_eq!(child.wait().expect("ends").code(), Some(0));
        std::fs::remove_file(path).expect("removes");
    }

    #[test]
    fn the_archive_is_reproducible() {
        assert_eq!(archive("localhost/pause:1"), archive("localhost/pause:1"));
    }
}
