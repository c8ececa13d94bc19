//! The allocator: jemalloc, told to give memory back soon. Servers and agents run for months and
//! are idle most of the time; what a burst needed should not stay theirs.

#[global_allocator]
static JEMALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A pointer to a constant, in the form that jemalloc looks it up.
#[repr(transparent)]
struct Options(*const libc::c_char);

// SAFETY: it points to a constant that nothing ever writes.
unsafe impl Sync for Options {}

/// `background_thread` purges even when a process sleeps. Two arenas: contention on the allocator
/// is small beside what a fragmented arena per core costs.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: Options = Options(c"background_thread:true,narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0".as_ptr());
