//! How the process holds memory: the allocator's habits, and giving back what a start needed and nobody needs any more.
//!
//! Only what a small idle process gains by. None of it changes what any code may rely on, and on systems without it
//! nothing happens.

/// Makes the allocator frugal: two arenas for all threads instead of eight for each core, and freed memory goes back to
/// the system early. Call it before other threads exist, since a thread keeps its arena.
///
/// The data path allocates nothing per packet, so it does not notice.
pub fn be_frugal() {
    imp::be_frugal();
}

/// Gives the system back what nobody uses: memory that the allocator holds, and the mapped pages of the program itself,
/// most of which only a start needs. What is needed again is mapped again from the page cache, within microseconds.
pub fn give_back() {
    imp::give_back();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
mod imp {
    /// Arenas of the allocator: one for the runtime, one beside it for the threads that stand alone.
    const ARENAS: libc::c_int = 2;

    /// Freed memory at the top of the heap beyond this goes back at once, in bytes.
    const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

    /// Blocks from this size on are mapped by themselves, so that they go back when freed, in bytes.
    const MMAP_THRESHOLD: libc::c_int = 128 * 1024;

    pub(super) fn be_frugal() {
        // SAFETY: `mallopt` takes two integers and may be called at any time; an option it does not know is refused.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            // Said aloud, for otherwise both grow with the largest block that was ever freed.
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        }
    }

    pub(super) fn give_back() {
        // SAFETY: it touches only memory that the allocator holds and has handed to nobody.
        unsafe {
            libc::malloc_trim(0);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for (start, len) in maps.lines().filter_map(super::program_text) {
            // SAFETY: the pages are mapped from a file for reading and executing only, so nothing was written to them,
            // and the next access maps the same bytes again.
            unsafe {
                libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Returns start and length of a mapping that is executable code from a file and cannot have been changed, from its line
/// in `/proc/self/maps`.
#[cfg(any(test, all(target_os = "linux", target_env = "gnu")))]
fn program_text(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_text = words.next()? == "r-xp";
    // Offset, device and inode stand between; the kernel's own mappings have names in brackets.
    let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (is_text && is_file).then_some((start, end.checked_sub(start)?))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod imp {
    pub(super) fn be_frugal() {}

    pub(super) fn give_back() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_a_file_is_given_back() {
        let text = "5590a000-5590c000 r-xp 00001000 fe:00 1234   /usr/bin/runmesh";
        assert_eq!(program_text(text), Some((0x5590_a000, 0x2000)));
        for kept in [
            "5590a000-5590c000 r--p 00001000 fe:00 1234   /usr/bin/runmesh",
            "5590a000-5590c000 rw-p 00001000 fe:00 1234   /usr/bin/runmesh",
            "7ffe0000-7ffe2000 r-xp 00000000 00:00 0      [vdso]",
            "5590a000-5590c000 r-xp 00000000 00:00 0",
            "rubbish",
            "",
        ] {
            assert_eq!(program_text(kept), None, "{kept}");
        }
    }

    #[test]
    fn a_process_goes_on_after_giving_back() {
        be_frugal();
        let kept: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        drop(vec![1_u8; 8 * 1024 * 1024]);
        give_back();
        assert_eq!(kept.iter().map(String::len).sum::<usize>(), 2890);
        give_back();
    }
}
