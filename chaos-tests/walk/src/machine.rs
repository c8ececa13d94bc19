//! Time and chance of a thread, instead of the machine's.
//!
//! The standard library, tokio and jiff ask the C library for the time, for chance and for events. These three functions of
//! it are here: they answer a thread of a simulation from its own state, and pass everybody else's questions on to the
//! kernel. So no crate needs to know, and what none of them lets a test decide (the seeds of hash maps, which branch of a
//! `select!` is looked at first) is decided, too.
//!
//! Invariants
//! - Time passes only when the thread's runtime has nothing to do: it then jumps to the next timer.
//! - What runs on other threads (`spawn_blocking`) is not waited for by the clock.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use libc::{clockid_t, epoll_event, size_t, ssize_t, timespec};

/// The wall clock at the beginning of every run, in Unix seconds: a full minute.
pub const EPOCH: u64 = 1_800_000_000;
/// The monotonic clock then: later than any real one.
const MONOTONIC: u64 = 1_000_000_000;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct Machine {
    /// Nanoseconds since the beginning.
    now: u64,
    chance: u64,
}

thread_local! {
    static MACHINE: Cell<Option<Machine>> = const { Cell::new(None) };
}

/// Runs `work` on a thread whose clock stands still while it works, and whose chance is decided by `seed`.
///
/// # Panics
/// If `work` does.
pub fn on_virtual_time<T: Send>(seed: u64, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let begin = move || {
            MACHINE.set(Some(Machine { now: 0, chance: seed }));
            work()
        };
        // Unoptimized futures are deep.
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, begin);
        let ended = thread.expect("there are threads").join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What has passed for this thread since the beginning.
pub fn passed() -> Duration {
    Duration::from_nanos(MACHINE.get().map_or(0, |machine| machine.now))
}

/// Any number.
pub fn draw() -> u64 {
    let Some(mut machine) = MACHINE.get() else { return 0 };
    // SplitMix64.
    machine.chance = machine.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
    MACHINE.set(Some(machine));
    let value = (machine.chance ^ (machine.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// As the C library's.
///
/// # Safety
/// `time` points to a place for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let origin = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => EPOCH,
        _ => MONOTONIC,
    };
    let of_a_program = matches!(clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID);
    let Some(Machine { now, .. }) = MACHINE.get().filter(|_| !of_a_program) else {
        // SAFETY: the arguments are the caller's own.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    };
    let told = timespec { tv_sec: (origin + now / SECOND) as i64, tv_nsec: (now % SECOND) as i64 };
    // SAFETY: the caller says that there is a place.
    unsafe { time.write(told) };
    0
}

/// As the C library's.
///
/// # Safety
/// `buffer` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if MACHINE.get().is_none() {
        // SAFETY: the arguments are the caller's own.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as ssize_t;
    }
    // SAFETY: the caller says that there are so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&draw().to_le_bytes()[..chunk.len()]));
    length as ssize_t
}

/// As the C library's. A simulation does not wait: its clock moves on.
///
/// # Safety
/// `events` points to places for `most`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(queue: c_int, events: *mut epoll_event, most: c_int, timeout: c_int) -> c_int {
    // SAFETY: the arguments are the caller's own; no signal mask is given.
    let wait = |timeout: c_int| unsafe {
        libc::syscall(libc::SYS_epoll_pwait, queue, events, most, timeout, std::ptr::null::<c_void>(), 8usize) as c_int
    };
    let Some(mut machine) = MACHINE.get() else { return wait(timeout) };
    let ready = wait(0);
    if ready != 0 || timeout == 0 {
        return ready;
    }
    let Ok(pause) = u64::try_from(timeout) else { return wait(timeout) };
    machine.now += pause * 1_000_000;
    MACHINE.set(Some(machine));
    0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Instant, SystemTime};

    use super::*;

    fn order() -> Vec<u64> {
        (0..100).collect::<HashSet<u64>>().into_iter().collect()
    }

    #[test]
    fn a_day_passes_at_once() {
        let day = Duration::from_secs(86_400);
        let real = Instant::now();
        let passed = on_virtual_time(1, || {
            let (began, wall) = (Instant::now(), SystemTime::now());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { tokio::time::sleep(day).await });
            (began.elapsed(), wall.elapsed().expect("time goes on"))
        });
        assert!(passed.0 >= day && passed.1 >= day && passed.0 < day + Duration::from_secs(1), "{passed:?}");
        assert!(real.elapsed() < Duration::from_secs(20), "{:?}", real.elapsed());
    }

    #[test]
    fn a_seed_decides_the_order_of_hash_maps() {
        assert_eq!(on_virtual_time(1, order), on_virtual_time(1, order));
        assert_ne!(on_virtual_time(1, order), on_virtual_time(2, order));
        assert_ne!(order(), on_virtual_time(1, order));
    }
}
