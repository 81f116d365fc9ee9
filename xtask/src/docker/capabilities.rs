//! Which Linux capabilities this machine can give to a container.

use std::fs;

/// Names in the order of their numbers in `linux/capability.h`.
const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities that a process may ever hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounding(u64);

impl Bounding {
    /// That of this process. When the kernel does not say, nothing is taken to be missing.
    pub fn own() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::in_status(&status).unwrap_or(Self(u64::MAX))
    }

    /// Every capability but one.
    #[cfg(test)]
    pub fn without(name: &str) -> Self {
        let one = NAMES
            .iter()
            .position(|known| *known == name)
            .map_or(0, |number| 1 << number);
        Self(!one)
    }

    fn in_status(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// Whether a capability of this name is in the set. Names that are not known here are: the runtime judges them.
    pub fn holds(self, name: &str) -> bool {
        NAMES
            .iter()
            .position(|known| *known == name)
            .is_none_or(|number| self.0 >> number & 1 == 1)
    }

    /// The capabilities that the kernel knows and this machine lacks: a privileged container would be given them.
    pub fn missing(self) -> Vec<&'static str> {
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        NAMES
            .iter()
            .take(last.map_or(NAMES.len(), |last: usize| last + 1))
            .filter(|name| !self.holds(name))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_that_a_bounding_set_lacks_is_named() {
        let set = Bounding::in_status("Name:\tx\nCapBnd:\t000001fffeffffff\n").unwrap();
        assert!(!set.holds("CAP_SYS_RESOURCE"));
        assert!(set.holds("CAP_SYS_ADMIN"));
        assert!(set.holds("CAP_OF_A_NEWER_KERNEL"));
        assert_eq!(set.missing(), ["CAP_SYS_RESOURCE"]);
    }
}
