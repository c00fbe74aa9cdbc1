//! How guests run: found out by booting one, since `/dev/kvm` may be there and not work.

use std::{
    fmt,
    fs::File,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What the kernel offers KVM through.
const KVM_DEVICE: &str = "/dev/kvm";
/// The program that runs guests.
pub(super) const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
/// How long the probe's guest may take with KVM, which may hang: what takes longer is of no use.
const KVM: (&str, Duration) = ("kvm", Duration::from_secs(3));
/// In software it takes 0.2 s, and more on a host that has a lot to do.
const TCG: (&str, Duration) = ("tcg", Duration::from_secs(30));
/// What the probe's guest writes to the port that ends QEMU, and what QEMU makes of it.
const WORD: u8 = 0x21;
const STATUS: i32 = (0x21 << 1) | 1;

/// How guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor, with KVM.
    Kvm,
    /// In software, with QEMU's code generator: everywhere, and slower by an order of magnitude.
    Tcg,
}

impl Accelerator {
    /// KVM when a guest really boots with it, software otherwise. Blocks for up to some seconds.
    pub fn probe() -> Self {
        if File::open(KVM_DEVICE).is_ok() && boots(KVM) { Self::Kvm } else { Self::Tcg }
    }

    /// What a guest has really booted with, the better first; none when no guest boots here.
    /// Blocks for half a minute at the worst.
    pub fn prove() -> Option<Self> {
        match Self::probe() {
            Self::Kvm => Some(Self::Kvm),
            Self::Tcg => boots(TCG).then_some(Self::Tcg),
        }
    }

    /// Whether the kernel offers KVM, which may not work all the same.
    pub fn kvm_is_offered() -> bool {
        Path::new(KVM_DEVICE).exists()
    }

    /// As QEMU calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => KVM.0,
            Self::Tcg => TCG.0,
        }
    }

    /// The domain type of libvirt.
    pub(super) const fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "software emulation",
        })
    }
}

/// Whether a boot sector gets to run: `mov al, WORD; out 0xf4, al; jmp $`.
fn boots((accelerator, patience): (&str, Duration)) -> bool {
    let mut sector = [0_u8; 512];
    sector[..6].copy_from_slice(&[0xb0, WORD, 0xe6, 0xf4, 0xeb, 0xfe]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let Ok(mut disk) = tempfile::NamedTempFile::with_prefix("fairmazon-probe-") else {
        return false;
    };
    if disk.write_all(&sector).is_err() {
        return false;
    }
    let child = Command::new(EMULATOR)
        .args(["-accel", accelerator, "-m", "16", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive"])
        .arg(format!("file={},format=raw,if=floppy", disk.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.is_ok_and(|child| ends_well(child, Instant::now() + patience))
}

fn ends_well(mut child: Child, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.code() == Some(STATUS),
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
    // It hangs; nothing of it stays.
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_boots_in_software_and_not_with_what_is_no_accelerator() {
        assert!(boots(TCG));
        assert!(!boots(("none-such", TCG.1)));
    }

    #[test]
    fn a_probe_ends_and_names_what_boots() {
        let found = Accelerator::probe();
        assert_eq!(boots(KVM), found == Accelerator::Kvm, "{found}");
        assert_eq!(Accelerator::prove(), Some(found));
    }
}
