//! What comes of files that volumes are imported from, before they are volumes.

use super::{FileCase, Step, VolumeAction, VolumeCase, Wish, step};

/// What to do about a file that no volume is to be made from. Unlike a volume it is nobody's data:
/// its customer has it.
pub(super) fn unwanted_file(case: &VolumeCase<'_>) -> Option<Step<VolumeAction>> {
    let is_wanted = match case.wish {
        Wish::Unknown => true,
        Wish::Absent => false,
        Wish::Present(wish) => wish.imports().is_some() && case.seen.is_none(),
    };
    match case.file {
        FileCase::Part | FileCase::Whole if !is_wanted => {
            Some(step(VolumeAction::DropFile, "no volume is made from its file"))
        }
        FileCase::Comes if !is_wanted => Some(step(VolumeAction::Wait, "its transfer ends")),
        _ => None,
    }
}
