//! A process from outside: its memory and processor time, as the kernel counts them (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process has in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now: `VmRSS`.
    pub resident: u64,
    /// Resident at its highest: `VmHWM`.
    pub highest: u64,
}

impl Memory {
    /// Bytes as MiB.
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
    pub fn mebibytes(bytes: u64) -> f64 {
        bytes as f64 / f64::from(1 << 20)
    }
}

/// The memory of a process.
///
/// # Errors
/// When there is no such process (any more).
pub fn memory(pid: u32) -> Result<Memory> {
    let text = read(pid, "status")?;
    memory_in(&text).with_context(|| format!("process {pid} has no memory of its own: it has ended"))
}

/// The processor time that a process has used, in user and kernel mode, by all its threads.
///
/// # Errors
/// When there is no such process (any more).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = read(pid, "stat")?;
    cpu_time_in(&text).with_context(|| format!("/proc/{pid}/stat cannot be read: {text}"))
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("there is no process {pid}"))
}

fn memory_in(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        highest: field("VmHWM:")?,
    })
}

/// The kernel's USER_HZ: 100 on every architecture that Meridian is built for.
const TICKS_PER_SECOND: u64 = 100;

fn cpu_time_in(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tmeridian\nVmPeak:\t  999999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\nThreads:\t3\n";
        assert_eq!(
            memory_in(status),
            Some(Memory {
                resident: 100 << 20,
                highest: 200 << 20
            })
        );
        assert_eq!(memory_in("Name:\tzombie\n"), None);
        assert_eq!(Memory::mebibytes(3 << 20), 3.0);
    }

    #[test]
    fn processor_time_is_of_both_modes_whatever_the_name() {
        let stat = "42 (odd ) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 3 0 12345 1000 200";
        assert_eq!(cpu_time_in(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_time_in("42 (x"), None);
    }

    #[test]
    fn this_process_has_memory_and_has_worked() {
        let own = std::process::id();
        let memory = memory(own).unwrap();
        assert!(memory.resident > 0 && memory.highest >= memory.resident);
        assert!(cpu_time(own).is_ok());
        assert!(super::memory(u32::MAX).is_err());
    }
}
