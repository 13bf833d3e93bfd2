//! Rounding of f32 to bf16 in place.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use super::values::floats;
use crate::simd::halves::to_halves;
use crate::simd::vectorized;

/// Sets `to` (bf16) to `from` (f32, or bf16 as it is), rounded to nearest, ties to even. Both are on the CPU.
///
/// # Errors
/// If a type is another one, the number of elements or the device differs, or a tensor is not contiguous.
pub fn round_into(to: &Tensor, from: &Tensor) -> Result<()> {
    to.inplace_op2(from, &RoundInto)
}

struct RoundInto;

impl InplaceOp2 for RoundInto {
    fn name(&self) -> &'static str {
        "round-into"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        lt: &Layout,
        from: &CpuStorage,
        lf: &Layout,
    ) -> Result<()> {
        let from = floats("round-into", from, lf)?;
        let (CpuStorage::BF16(all), Some((start, end))) = (to, lt.contiguous_offsets()) else {
            candle_core::bail!("round-into: expected a contiguous bf16 tensor");
        };
        let to = &mut all[start..end];
        if to.len() != from.len() {
            candle_core::bail!("round-into: {} numbers into {}", from.len(), to.len());
        }
        vectorized(
            #[inline(always)]
            || to_halves(&from, to),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn a_tensor_is_rounded_as_by_candle() {
        let from = Tensor::arange(-500_f32, 523.0, &Device::Cpu).unwrap();
        let from = (from / 7.0).unwrap();
        let to = Var::zeros(1023, DType::BF16, &Device::Cpu).unwrap();
        round_into(&to, &from).unwrap();
        let expected = from.to_dtype(DType::BF16).unwrap();
        let numbers = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(&to), numbers(&expected));
    }

    #[test]
    fn other_types_and_sizes_are_refused() {
        let of = |len, dtype| Tensor::zeros(len, dtype, &Device::Cpu).unwrap();
        for (to, from, part) in [
            (
                of(4, DType::F32),
                of(4, DType::F32),
                "expected a contiguous bf16",
            ),
            (
                of(4, DType::BF16),
                of(4, DType::U32),
                "expected f32 or bf16",
            ),
            (of(4, DType::BF16), of(5, DType::F32), "5 numbers into 4"),
        ] {
            let error = round_into(&to, &from).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
