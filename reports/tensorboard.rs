//! Writes TensorBoard's event files: records of a length, its masked CRC-32C, an `Event` message and its masked CRC-32C
//! (`tensorflow/core/lib/io/record_writer.cc`, `tensorflow/core/util/event.proto`). Scalars only.

/// A number at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// `pretrain/loss`.
    pub tag: String,
    /// Epoch.
    pub step: u64,
    /// The number.
    pub value: f32,
}

/// Returns an event file of `scalars`. The wall time of each is its step, in seconds, so that equal runs give equal bytes.
pub fn events(scalars: &[Scalar]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut version = Vec::new();
    bytes(&mut version, 3, b"brain.Event:2");
    record(&mut out, &version);
    for scalar in scalars {
        record(&mut out, &event(scalar));
    }
    out
}

/// `Event { wall_time = 1: double, step = 2: int64, summary = 5 { value = 1 { tag = 1, simple_value = 2: float } } }`; zeros
/// are left out, as proto3 does.
fn event(scalar: &Scalar) -> Vec<u8> {
    let mut value = Vec::new();
    bytes(&mut value, 1, scalar.tag.as_bytes());
    value.push(0x15);
    value.extend(scalar.value.to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, 1, &value);
    let mut event = Vec::new();
    if scalar.step > 0 {
        event.push(0x09);
        event.extend((scalar.step as f64).to_le_bytes());
        event.push(0x10);
        varint(&mut event, scalar.step);
    }
    bytes(&mut event, 5, &summary);
    event
}

/// Appends a length-delimited field.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(out: &mut Vec<u8>, content: &[u8]) {
    let length = (content.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(content);
    out.extend(masked(content).to_le_bytes());
}

fn masked(content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(content);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/tensorboard/make.py` writes the same with TensorBoard.
    #[test]
    fn the_bytes_equal_those_of_tensorboard() {
        let scalar = |tag: &str, step, value| Scalar {
            tag: tag.into(),
            step,
            value,
        };
        let found = events(&[
            scalar("pretrain/loss", 0, 2.5),
            scalar("pretrain/loss", 1, 0.125),
            scalar("finetune/lr", 300, 1e-6),
        ]);
        assert!(found == include_bytes!("../tests/fixtures/tensorboard/events.bin"));
    }
}
