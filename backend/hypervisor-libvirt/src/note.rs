//! The note that a domain carries in its metadata: that it is the platform's, its marks, and the
//! spec it was defined from.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use fairmazon_hypervisor::{HypervisorError, Marks};
use fairmazon_model::{id::VolumeId, machine::MachineSpec};
use serde::{Deserialize, Serialize};

/// What the note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) marks: Marks,
    pub(crate) spec: Arc<MachineSpec>,
    /// The volumes of disks that were about to come or to go when this was written. Of these a
    /// machine that runs has what is plugged in.
    pub(crate) in_flux: BTreeSet<VolumeId>,
}

#[derive(Serialize)]
struct NoteOut<'a> {
    marks: Marks,
    spec: &'a MachineSpec,
    in_flux: &'a BTreeSet<VolumeId>,
}

#[derive(Deserialize)]
struct NoteIn {
    marks: Marks,
    spec: MachineSpec,
    /// Notes of earlier versions do not say.
    in_flux: Option<BTreeSet<VolumeId>>,
}

impl Note {
    /// The note as JSON in ASCII without control characters: XML carries that unchanged.
    pub(crate) fn encode(&self) -> Result<String, HypervisorError> {
        let Self { marks, spec, in_flux } = self;
        let json = serde_json::to_string(&NoteOut { marks: *marks, spec, in_flux })
            .map_err(|error| broken("write the note of a machine", error))?;
        let mut ascii = String::with_capacity(json.len());
        for character in json.chars() {
            if character.is_ascii() && character != '\x7f' {
                ascii.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Infallible: a String takes all that is written to it.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
        Ok(ascii)
    }

    pub(crate) fn decode(text: &str) -> Result<Self, HypervisorError> {
        let note: NoteIn = serde_json::from_str(text)
            .map_err(|error| broken("read the note of a machine", error))?;
        let NoteIn { marks, spec, in_flux } = note;
        let all = || spec.disks.iter().map(|disk| disk.volume).collect();
        let in_flux = in_flux.unwrap_or_else(all);
        Ok(Self { marks, spec: Arc::new(spec), in_flux })
    }

    /// The marks of a note that is not understood as a whole, such as one of a later version.
    pub(crate) fn decode_marks(text: &str) -> Option<Marks> {
        serde_json::from_str(text).ok().map(|MarksIn { marks }| marks)
    }
}

/// What is read of a note that is not understood as a whole.
#[derive(Deserialize)]
struct MarksIn {
    marks: Marks,
}

fn broken(attempted: &str, error: serde_json::Error) -> HypervisorError {
    HypervisorError::Driver { attempted: attempted.into(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::{Marks, contract};
    use fairmazon_model::machine::Disk;
    use proptest::prelude::*;

    use super::*;
    use crate::xml;

    #[test]
    fn disks_are_looked_for_where_a_note_does_not_say_which_may_be_elsewhere() {
        let disk = |number| Disk { volume: contract::volume(number), ..contract::spec(1).boot };
        let spec = MachineSpec { disks: vec![disk(2), disk(3)], ..contract::spec(1) };
        let note = Note { marks: Marks::default(), spec: spec.into(), in_flux: BTreeSet::new() };
        let text = note.encode().unwrap();
        assert_eq!(Note::decode(&text).unwrap(), note);
        let earlier = text.replace(r#","in_flux":[]"#, "");
        assert_ne!(earlier, text);
        let both = [contract::volume(2), contract::volume(3)].into();
        assert_eq!(Note::decode(&earlier).unwrap(), Note { in_flux: both, ..note });
    }

    proptest! {
        #[test]
        fn a_note_survives_xml(
            name in any::<String>(),
            user_data in any::<String>(),
            in_flux in prop::collection::btree_set(any::<u128>().prop_map(contract::volume), 0..3),
        ) {
            let mut spec = contract::spec(1);
            (spec.name, spec.user_data) = (name, user_data);
            let note = Note { marks: Marks::default(), spec: spec.into(), in_flux };
            let text = note.encode().unwrap();
            prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let read = xml::note_of(&xml::note_element(&text)).unwrap();
            prop_assert_eq!(Note::decode(&read).unwrap(), note);
        }

        #[test]
        fn any_text_is_a_note_or_an_error(text in any::<String>()) {
            let _ = Note::decode(&text);
        }
    }
}
