//! Parts of steps that a device starts again as they were recorded, without the host's work for every launch.

use tessera_kernels::device::launch::Dtype;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::device::recording::{Recording, Replay};

use super::ready::Ready;
use crate::error::Result;

/// What distinguishes recordings: a part's place in its step, its images, and the bytes of its lists.
type Kind = (usize, [usize; 2]);

/// Recorded parts. They share their input and their intermediate results, because they run one after another.
#[derive(Default)]
pub(super) struct Recorded {
    /// Input that recordings read, one for each number of images and length of lists.
    inputs: Vec<Ready>,
    parts: Vec<(Kind, Replay)>,
    /// Intermediate results.
    room: Option<Memory>,
}

impl Recorded {
    /// Forgets all recordings, for instance because memory that they use was replaced.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }

    /// Starts the part at `place` of its step, and records it before if there was none like it. `compute` starts the operations of a part.
    pub(super) fn start(
        &mut self,
        device: &Device,
        (place, ready): (usize, Ready),
        compute: impl FnOnce(&Device, Ready) -> Result<()>,
    ) -> Result<()> {
        let kind = (place, ready.sizes());
        let input = self.inputs.iter().find(|input| input.sizes() == kind.1);
        let input = match input {
            Some(input) => {
                ready.copy_to(device, input)?;
                input.clone()
            }
            None => {
                self.inputs.push(ready.clone());
                ready
            }
        };
        if let Some((_, replay)) = self.parts.iter_mut().find(|(of, _)| *of == kind) {
            return Ok(replay.start()?);
        }
        let recording = Recording::of(|device| compute(device, input))?;
        let bytes = recording.bytes();
        let room = match self.room.take().filter(|room| room.len() >= bytes) {
            Some(room) => room,
            None => {
                // Recordings of shorter parts keep the memory that is too short.
                self.clear();
                device.room(Dtype::U8, bytes)?
            }
        };
        self.room = Some(room.clone());
        let mut replay = recording.on(device, &room)?;
        replay.start()?;
        self.parts.push((kind, replay));
        Ok(())
    }
}
