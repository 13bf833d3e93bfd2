//! Runs launches on the host ([`emulation`]) and checks them.
//!
//! Every buffer lies between guards, and outputs are poisoned. A test fails if an element is not written, a write is out of
//! bounds, an input changes, or a result depends on the order of threads.

#![expect(unsafe_code, reason = "calls the compiled kernels")]

use std::collections::HashMap;

use crate::device::launch::{Access, Dtype, Launch};
use crate::testing::{
    self,
    emulation::{self, Host},
};

/// Length of the guard on each side of a buffer, in units of 16 bytes.
pub(super) const GUARD: usize = 8;
const POISON: u8 = 0xff;

/// A buffer of any element type.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    dtype: Dtype,
    len: usize,
    /// Aligned to 16 bytes, including the guards.
    memory: Vec<u128>,
}

impl Buffer {
    fn poisoned(dtype: Dtype, len: usize) -> Self {
        let whole = (len * dtype.size()).div_ceil(16) + 2 * GUARD;
        Self {
            dtype,
            len,
            memory: vec![u128::from_ne_bytes([POISON; 16]); whole],
        }
    }

    /// Returns the bytes, including the guards.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.memory
            .iter()
            .flat_map(|unit| unit.to_ne_bytes())
            .collect()
    }

    /// Creates a buffer of `values`, rounded to the type.
    pub fn new(dtype: Dtype, values: &[f64]) -> Self {
        let mut buffer = Self::poisoned(dtype, values.len());
        let mut bytes = buffer.bytes();
        let start = GUARD * 16;
        for (to, value) in bytes[start..].chunks_exact_mut(dtype.size()).zip(values) {
            match dtype {
                Dtype::F32 => to.copy_from_slice(&(*value as f32).to_ne_bytes()),
                Dtype::Bf16 => to.copy_from_slice(&bf16_bits(*value as f32).to_ne_bytes()),
                Dtype::U8 => to.copy_from_slice(&(*value as u8).to_ne_bytes()),
                Dtype::U32 => to.copy_from_slice(&(*value as u32).to_ne_bytes()),
                Dtype::I32 => to.copy_from_slice(&(*value as i32).to_ne_bytes()),
                Dtype::I64 => to.copy_from_slice(&(*value as i64).to_ne_bytes()),
                Dtype::U64 => to.copy_from_slice(&(*value as u64).to_ne_bytes()),
            }
        }
        buffer.set_bytes(&bytes);
        buffer
    }

    /// Sets the bytes, including the guards.
    pub(super) fn set_bytes(&mut self, bytes: &[u8]) {
        let units = bytes.as_chunks::<16>().0.iter();
        self.memory = units.map(|unit| u128::from_ne_bytes(*unit)).collect();
    }

    /// Returns the elements.
    pub fn values(&self) -> Vec<f64> {
        let (bytes, start) = (self.bytes(), GUARD * 16);
        let numbers = bytes[start..]
            .chunks_exact(self.dtype.size())
            .take(self.len);
        let number = |b: &[u8]| match self.dtype {
            Dtype::F32 => f64::from(f32::from_ne_bytes(b.try_into().unwrap())),
            Dtype::Bf16 => f64::from(bf16_value(u16::from_ne_bytes(b.try_into().unwrap()))),
            Dtype::U8 => f64::from(b[0]),
            Dtype::U32 => f64::from(u32::from_ne_bytes(b.try_into().unwrap())),
            Dtype::I32 => f64::from(i32::from_ne_bytes(b.try_into().unwrap())),
            Dtype::I64 => i64::from_ne_bytes(b.try_into().unwrap()) as f64,
            Dtype::U64 => u64::from_ne_bytes(b.try_into().unwrap()) as f64,
        };
        numbers.map(number).collect()
    }

    /// Returns whether the guards are unchanged.
    fn is_guarded(&self) -> bool {
        let (bytes, start) = (self.bytes(), GUARD * 16);
        let inside = start..start + self.len * self.dtype.size();
        let mut outside = bytes
            .iter()
            .enumerate()
            .filter(|(at, _)| !inside.contains(at));
        outside.all(|(_, byte)| *byte == POISON)
    }

    /// Returns the first element that was never written. For bytes, 255 is a valid value, so only the expected values can tell.
    fn left_out(&self) -> Option<usize> {
        let (bytes, size) = (self.bytes(), self.dtype.size());
        let len = if size == 1 { 0 } else { self.len };
        let mut numbers = bytes[GUARD * 16..].chunks_exact(size).take(len);
        numbers.position(|number| number.iter().all(|byte| *byte == POISON))
    }
}

/// Rounds to nearest, ties to even.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns `values` rounded to the type.
pub fn rounded(dtype: Dtype, values: &[f64]) -> Vec<f64> {
    Buffer::new(dtype, values).values()
}

/// Buffers by name.
pub type Buffers = HashMap<&'static str, Buffer>;

/// Returns the buffers after the launches, which start with `given`; `None` without a host compiler, with a notice. Runs twice: on
/// the host with threads in ascending and descending order, or both times on the GPU if one is requested.
pub fn run(launches: &[Launch], given: &[(&'static str, Buffer)]) -> Option<Buffers> {
    let [first, second] = [false, true].map(|backwards| run_in_order(launches, given, backwards));
    assert_eq!(
        first, second,
        "depends on the order of threads: {}",
        launches[0]
    );
    first
}

fn run_in_order(
    launches: &[Launch],
    given: &[(&'static str, Buffer)],
    backwards: bool,
) -> Option<Buffers> {
    let mut buffers: Buffers = given.iter().cloned().collect();
    let mut written: Vec<&str> = Vec::new();
    for launch in launches {
        for of in launch.buffers() {
            let create = || {
                assert_eq!(
                    of.access,
                    Access::Write,
                    "{launch}: missing input {}",
                    of.name
                );
                Buffer::poisoned(of.dtype, of.len)
            };
            let buffer = buffers.entry(of.name).or_insert_with(create);
            let found = (buffer.dtype, buffer.len);
            assert_eq!(found, (of.dtype, of.len), "{launch}: {}", of.name);
            if of.access == Access::Write {
                written.push(of.name);
            }
        }
        let before = buffers.clone();
        call(launch, &mut buffers, backwards)?;
        for of in launch.buffers() {
            let buffer = &buffers[of.name];
            assert!(buffer.is_guarded(), "{launch}: a write outside {}", of.name);
            let same = *buffer == before[of.name];
            assert!(
                of.access != Access::Read || same,
                "{launch}: changed {}",
                of.name
            );
        }
    }
    for name in written {
        let left = buffers[name].left_out();
        assert_eq!(left, None, "{}: {name} was not written there", launches[0]);
    }
    Some(buffers)
}

fn call(launch: &Launch, buffers: &mut Buffers, backwards: bool) -> Option<()> {
    match crate::testing::gpu_is_requested() {
        true => super::gpu::call(launch, buffers),
        false => call_here(launch, buffers, backwards),
    }
}

fn call_here(launch: &Launch, buffers: &mut Buffers, backwards: bool) -> Option<()> {
    if let Err(reason) = emulation::available() {
        let name = launch.module.name;
        testing::tell(&format!("SKIPPED, {name}.cu was not run: {reason}"));
        return None;
    }
    let host = Host::of(&launch.module).unwrap_or_else(|message| panic!("{message}"));
    if launch.grid == 0 {
        return Some(());
    }
    let mut addresses = Vec::new();
    for of in launch.buffers() {
        let memory = &mut buffers.get_mut(of.name)?.memory;
        addresses.push(memory[GUARD..].as_mut_ptr().expose_provenance() as u64);
    }
    // SAFETY: buffers have the declared length and do not move during the call.
    unsafe { host.call(launch, &addresses, backwards) }
        .unwrap_or_else(|message| panic!("{launch}: {message}"));
    Some(())
}
