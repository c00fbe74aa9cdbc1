//! Windows of what was used, and their sums.

use fairmazon_model::{
    DomainError,
    key::Blob,
    units::{Epoch, UnixMs},
    usage::{
        Amounts, RefusedWindow, SignedWindow, UsageWindow, WINDOWS_MAX, WindowBatch, WindowKind,
    },
};

use super::{id, known, required};
use crate::host::v1;

impl From<&WindowBatch> for v1::Metered {
    fn from(batch: &WindowBatch) -> Self {
        Self {
            batch: batch.number,
            certificate: batch.certificate.clone(),
            windows: batch.windows.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Metered> for WindowBatch {
    type Error = DomainError;

    fn try_from(message: v1::Metered) -> Result<Self, DomainError> {
        if message.windows.len() > WINDOWS_MAX {
            let why = format!("at most {WINDOWS_MAX} in a message");
            return Err(DomainError::invalid("windows", why));
        }
        let windows = message.windows.into_iter().map(TryInto::try_into);
        Ok(Self {
            number: message.batch,
            certificate: message.certificate,
            windows: windows.collect::<Result<_, DomainError>>()?,
        })
    }
}

impl From<&SignedWindow> for v1::SignedWindow {
    fn from(signed: &SignedWindow) -> Self {
        let signature = signed.signature.0.clone();
        Self { window: Some((&signed.window).into()), signature }
    }
}

impl TryFrom<v1::SignedWindow> for SignedWindow {
    type Error = DomainError;

    fn try_from(message: v1::SignedWindow) -> Result<Self, DomainError> {
        let window = required("window", message.window)?.try_into()?;
        Ok(Self { window, signature: Blob(message.signature) })
    }
}

impl From<&UsageWindow> for v1::UsageWindow {
    fn from(window: &UsageWindow) -> Self {
        let Amounts { vcpu_ms, mib_ms, gib_ms, egress_bytes } = window.amounts;
        let kind = match window.kind {
            WindowKind::Used => v1::WindowKind::Used,
            WindowKind::Off => v1::WindowKind::Off,
            WindowKind::Unseen => v1::WindowKind::Unseen,
        };
        Self {
            subject_id: window.subject.to_string(),
            epoch: window.epoch.0,
            begun_ms: window.begun.0,
            sequence: window.sequence,
            from_ms: window.from.0,
            until_ms: window.until.0,
            kind: kind.into(),
            class: window.class.clone(),
            vcpu_ms,
            mib_ms,
            gib_ms,
            egress_bytes,
        }
    }
}

impl TryFrom<v1::UsageWindow> for UsageWindow {
    type Error = DomainError;

    fn try_from(message: v1::UsageWindow) -> Result<Self, DomainError> {
        let kind = match known("kind", v1::WindowKind::try_from(message.kind))? {
            v1::WindowKind::Used => WindowKind::Used,
            v1::WindowKind::Off => WindowKind::Off,
            v1::WindowKind::Unseen => WindowKind::Unseen,
            v1::WindowKind::Unspecified => {
                return Err(DomainError::invalid("kind", "it is missing, and has to be given"));
            }
        };
        Ok(Self {
            subject: id("subject_id", &message.subject_id)?,
            epoch: Epoch(message.epoch),
            begun: UnixMs(message.begun_ms),
            sequence: message.sequence,
            from: UnixMs(message.from_ms),
            until: UnixMs(message.until_ms),
            kind,
            class: message.class,
            amounts: Amounts {
                vcpu_ms: message.vcpu_ms,
                mib_ms: message.mib_ms,
                gib_ms: message.gib_ms,
                egress_bytes: message.egress_bytes,
            },
        })
    }
}

impl From<&RefusedWindow> for v1::RefusedWindow {
    fn from(refused: &RefusedWindow) -> Self {
        Self {
            subject_id: refused.subject.to_string(),
            epoch: refused.epoch.0,
            begun_ms: refused.begun.0,
            sequence: refused.sequence,
            reason: refused.reason.clone(),
        }
    }
}

impl TryFrom<v1::RefusedWindow> for RefusedWindow {
    type Error = DomainError;

    fn try_from(message: v1::RefusedWindow) -> Result<Self, DomainError> {
        Ok(Self {
            subject: id("subject_id", &message.subject_id)?,
            epoch: Epoch(message.epoch),
            begun: UnixMs(message.begun_ms),
            sequence: message.sequence,
            reason: message.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{
        id::{InstanceId, VolumeId},
        usage::Subject,
    };

    use super::*;

    #[test]
    fn a_window_survives_the_wire() {
        let subjects = [
            Subject::Instance(InstanceId::from_parts(1, 1)),
            Subject::Volume(VolumeId::from_parts(1, 1)),
        ];
        for (subject, kind) in subjects.into_iter().flat_map(|subject| {
            [WindowKind::Used, WindowKind::Off, WindowKind::Unseen].map(|kind| (subject, kind))
        }) {
            let window = UsageWindow {
                subject,
                epoch: Epoch(1),
                begun: UnixMs(2),
                sequence: 3,
                from: UnixMs(4),
                until: UnixMs(5),
                kind,
                class: "fast".into(),
                amounts: Amounts { vcpu_ms: 6, mib_ms: 7, gib_ms: 8, egress_bytes: 9 },
            };
            let signed = SignedWindow { window, signature: Blob(vec![1, 2]) };
            assert_eq!(SignedWindow::try_from(v1::SignedWindow::from(&signed)), Ok(signed));
        }
        let empty = SignedWindow::try_from(v1::SignedWindow::default()).unwrap_err();
        assert_eq!(empty.field.as_deref(), Some("window"));
    }
}
