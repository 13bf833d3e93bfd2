//! What keys of results say about the machine that computes them: this one, or another whose results are looked up.
//!
//! Bytes depend on the instruction set, on the GPU and on the type of products. A [`Machine`] has all of that by name, so a login node
//! without a GPU writes the same keys as the workers that have one.

use serde_json::{Value, json};
use tessera_kernels::device::chip::Chip;
use tessera_kernels::device::defaults;
use tessera_kernels::device::launcher::Device;
use tessera_models::{Compute, Precision};

/// The instructions for products in bf16, which change the bytes of no other.
pub const BF16: &str = "+avx512bf16";
/// The tile registers that multiply bf16 instead, where a machine has them.
const AMX: &str = "+amx-bf16";
/// Instructions in the name of an x86_64 machine, in this order.
const INSTRUCTIONS: [&str; 5] = ["+avx2", "+fma", "+avx512f", BF16, AMX];
/// The processors whose instruction sets can be looked up.
const X86_64: &str = "x86_64";
const AARCH64: &str = "aarch64";

/// A machine by the names in keys of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The instruction set: [`architecture`], or that of another machine.
    pub arch: String,
    /// Where models compute: `cpu` or `cuda`.
    pub device: &'static str,
    /// Type of a model's products, as in the column `dtype`.
    pub dtype: &'static str,
    /// Name and compute capability of the GPU on which models compute.
    pub chip: Option<String>,
    precision: Precision,
    /// Name of the device of K-means, features with kernels, and counting, if it is not the CPU.
    launcher: Option<String>,
    /// Whether pretraining runs with a graph of operations, which rounds in another order.
    graph: bool,
    /// Whether a GPU keeps the driver's stream per thread, which may give wrong numbers.
    stream: bool,
}

impl Machine {
    /// Returns a machine with the instruction set `arch` and the devices of this one.
    pub fn new(arch: String, compute: &Compute, launcher: Option<&Device>) -> Self {
        Self {
            device: compute.kind(),
            dtype: compute.products(arch.contains(BF16)),
            chip: compute.chip().map(str::to_owned),
            precision: compute.precision(),
            launcher: launcher.map(Device::name),
            graph: !compute.is_resident(),
            stream: defaults::keeps("stream") && (launcher.is_some() || compute.chip().is_some()),
            arch,
        }
    }

    /// Returns a machine with a GPU, which this one need not have.
    pub fn with_gpu(arch: String, chip: &Chip, precision: Precision) -> Self {
        Self {
            arch,
            device: "cuda",
            dtype: precision.name(),
            chip: Some(chip.to_string()),
            precision,
            launcher: Some(chip.name().to_owned()),
            graph: precision == Precision::F32 || defaults::keeps("graph"),
            stream: defaults::keeps("stream"),
        }
    }

    /// Returns everything that may change a number without a change of the configuration: device, dtype and instruction set, for
    /// tokenizers, which run on the CPU.
    pub fn numerics(&self, engine: Option<&str>) -> Value {
        let arch = self.arch.split(BF16).next();
        let mut all = json!({"device": "cpu", "dtype": "f32", "arch": arch, "engine": engine});
        if let Some(launcher) = &self.launcher {
            all["launcher"] = json!(launcher);
        }
        if self.stream {
            all["stream"] = json!("default");
        }
        all
    }

    /// As [`numerics`](Self::numerics), for stages that train or run a model. Includes the GPU's name, because GPUs differ in the order
    /// of sums and in the part of a batch that fits, and whether pretraining there may run without a graph.
    pub fn model_numerics(&self, engine: Option<&str>) -> Value {
        let mut all = self.numerics(engine);
        all["device"] = json!(self.device);
        all["dtype"] = json!(self.dtype);
        if self.precision == Precision::Bf16 && self.device == "cpu" {
            all["arch"] = json!(self.arch);
        }
        if let Some(chip) = &self.chip {
            all["gpu"] = json!(chip);
        }
        if !self.graph {
            all["graph"] = json!(false);
        }
        all
    }
}

/// Returns the instruction set, which selects the kernels of matrix products.
pub fn architecture() -> String {
    let mut name = std::env::consts::ARCH.to_owned();
    #[cfg(target_arch = "x86_64")]
    for (feature, has) in [
        ("+avx2", std::is_x86_feature_detected!("avx2")),
        ("+fma", std::is_x86_feature_detected!("fma")),
        ("+avx512f", std::is_x86_feature_detected!("avx512f")),
    ] {
        if has {
            name.push_str(feature);
        }
    }
    if tessera_kernels::product::has_bf16() {
        name.push_str(BF16);
    }
    if tessera_kernels::product::has_amx() {
        name.push_str(AMX);
    }
    name
}

/// Returns `text` if it has the form of [`architecture`]: no machine has computed results under another name.
///
/// # Errors
/// The expected form.
pub fn named_architecture(text: &str) -> Result<String, String> {
    let start = text.find('+').unwrap_or(text.len());
    let (processor, mut rest) = text.split_at(start);
    if processor == X86_64 {
        for instructions in INSTRUCTIONS {
            // The name ends here, so `+avx2x` is not `+avx2`.
            let left = rest.strip_prefix(instructions);
            rest = left
                .filter(|left| left.is_empty() || left.starts_with('+'))
                .unwrap_or(rest);
        }
    }
    // Every processor with AVX-512 has AVX2 and FMA, bf16 is a part of AVX-512, and tiles are used only beside both.
    let has = |instructions: &str| text.contains(instructions);
    let is_whole = (!has("+avx512") || (has("+avx2") && has("+fma") && has("+avx512f")))
        && (!has(AMX) || has(BF16));
    match [X86_64, AARCH64].contains(&processor) && rest.is_empty() && is_whole {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected an instruction set as `bench doctor` prints it as `instructions`: {AARCH64}, or {X86_64} and those of {} that a machine has, \
             in this order (+avx512f only after +avx2 +fma, {BF16} only after +avx512f, {AMX} only after {BF16})",
            INSTRUCTIONS.join(" ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCH: &str = "x86_64+avx2+fma+avx512f";

    fn gpu(precision: Precision) -> Machine {
        let chip = "NVIDIA H200, compute capability 9.0".parse().unwrap();
        Machine::with_gpu(format!("{ARCH}{BF16}"), &chip, precision)
    }

    /// A change of these documents loses all results that are stored now.
    #[test]
    fn keys_of_a_named_gpu_are_those_that_its_machine_writes() {
        let all = json!({
            "device": "cpu", "dtype": "f32", "arch": ARCH, "engine": "rten", "launcher": "NVIDIA H200",
        });
        assert_eq!(gpu(Precision::Bf16).numerics(Some("rten")), all);
        let mut model = json!({
            "device": "cuda", "dtype": "bf16", "arch": ARCH, "engine": null, "launcher": "NVIDIA H200",
            "gpu": "NVIDIA H200, compute capability 9.0", "graph": false,
        });
        assert_eq!(gpu(Precision::Bf16).model_numerics(None), model);
        model["dtype"] = json!("f32");
        model.as_object_mut().unwrap().remove("graph");
        assert_eq!(gpu(Precision::F32).model_numerics(None), model);
        // Wrong numbers of the driver's stream do not stand for right ones.
        model["stream"] = json!("default");
        let machine = Machine {
            stream: true,
            ..gpu(Precision::F32)
        };
        assert_eq!(machine.model_numerics(None), model);
    }

    #[test]
    fn keys_of_a_cpu_name_no_gpu() {
        let of = |precision| Machine::new(ARCH.into(), &Compute::cpu(precision), None);
        let all = json!({"device": "cpu", "dtype": "f32", "arch": ARCH, "engine": null});
        assert_eq!(of(Precision::F32).numerics(None), all);
        assert_eq!(of(Precision::F32).model_numerics(None), all);
        let mut short = all;
        short["dtype"] = json!("bf16-emulated");
        assert_eq!(of(Precision::Bf16).model_numerics(None), short);
    }

    #[test]
    fn a_machine_with_a_gpu_and_another_that_names_it_write_the_same_keys() {
        let chip = match tessera_kernels::device::gpu() {
            Ok(chip) => chip.parse().unwrap(),
            Err(reason) => {
                tessera_testing::tell(&format!("SKIPPED: no GPU to compare with: {reason}"));
                return;
            }
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let compute = Compute::cuda(precision).unwrap();
            let launcher = tessera_kernels::device::beside(compute.device()).unwrap();
            let here = Machine::new(architecture(), &compute, launcher.as_ref());
            assert_eq!(here, Machine::with_gpu(architecture(), &chip, precision));
        }
    }

    #[test]
    fn instruction_sets_of_no_machine_are_refused() {
        let own = architecture();
        for arch in [
            &own,
            "aarch64",
            "x86_64",
            "x86_64+avx2+fma",
            ARCH,
            &format!("{ARCH}{BF16}"),
            &format!("{ARCH}{BF16}{AMX}"),
        ] {
            assert_eq!(named_architecture(arch).as_deref(), Ok(arch));
        }
        for arch in [
            "nonsense",
            "",
            "x86_64+fma+avx2",
            "x86_64+avx2fma",
            "x86_64+avx",
            "x86_64+",
            "x86-64+avx2",
            "aarch64+avx2",
            "x86_64+avx2; without AVX2",
            "x86_64+avx512f",
            "x86_64+avx2+avx512f",
            "x86_64+avx512bf16",
            "x86_64+avx2+fma+avx512bf16",
            "x86_64+avx2+fma+avx512f+amx-bf16",
            "x86_64+avx2+fma+avx512f+avx512bf16+amx",
        ] {
            let error = named_architecture(arch).unwrap_err();
            assert!(
                error.contains("bench doctor") && error.contains("+avx2 +fma"),
                "{arch}: {error}"
            );
        }
    }
}
