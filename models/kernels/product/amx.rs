//! `tdpbf16ps` of AMX: sums of products of 16 x 16 pairs of bf16 in tile registers (Intel, Architecture Instruction Set Extensions, 3.4).

use std::sync::OnceLock;

use crate::variables::AMX;

/// Rows and columns of sums that [`Unit::sums`] computes: two by two tile registers.
pub(super) const SIDE: usize = 32;
/// Inner lanes, each a pair of bf16, of a tile register.
pub(super) const INNER: usize = 16;

/// What computes sums of products in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// The processor's tile registers.
    Registers,
    /// Their definition in loops, for tests on any machine.
    #[cfg(test)]
    Definition,
}

/// Rows of lanes in memory that start every `stride` lanes.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub lanes: &'a [f32],
    pub stride: usize,
}

impl Rows<'_> {
    /// Whether `rows` rows of `wide` lanes lie in memory.
    fn holds(self, rows: usize, wide: usize) -> bool {
        self.lanes.len() >= (rows - 1) * self.stride + wide
    }
}

/// Sums of products, row by row, each row in two cache lines.
#[repr(C, align(64))]
pub(super) struct Sums(pub [[f32; SIDE]; SIDE]);

impl Unit {
    /// Returns the unit of this machine.
    pub(super) fn find() -> Option<Self> {
        #[cfg(test)]
        if definition::IS_USED.get() {
            return Some(Self::Definition);
        }
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = *FOUND.get_or_init(|| {
            let is_off = std::env::var_os(AMX).is_some_and(|value| value == "off");
            !is_off && has_instructions() && is_permitted()
        });
        found.then_some(Self::Registers)
    }

    /// Computes the sums of [`SIDE`] rows of `a`, of `depth` inner lanes each, and of twice 16 columns of the panel `b`, whose rows are inner
    /// lanes. The columns start at the two indices in `columns`.
    ///
    /// Over every [`INNER`] lanes there is a chain of fused additions for the lower halves and one for the upper halves. Their sum is added to
    /// that of the lanes before. Subnormal numbers count as zero.
    ///
    /// # Panics
    /// If `depth` is zero or no multiple of [`INNER`], or if an operand is too short.
    pub(super) fn sums(
        self,
        a: Rows<'_>,
        b: Rows<'_>,
        columns: [usize; 2],
        depth: usize,
        sums: &mut Sums,
    ) {
        let wide = columns[0].max(columns[1]) + INNER;
        let fits = a.holds(SIDE, depth) && b.holds(depth.max(1), wide);
        assert!(
            fits && depth > 0 && depth.is_multiple_of(INNER),
            "tiles of {depth} lanes"
        );
        match self {
            Self::Registers => in_registers(a, b, columns, depth, sums),
            #[cfg(test)]
            Self::Definition => definition::sums(a, b, columns, depth, sums),
        }
    }
}

/// Whether the processor has the instructions and the operating system keeps the registers' contents (bits 17 and 18 of XCR0).
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    let has_xgetbv = is_x86_feature_detected!("xsave") && __cpuid(1).ecx >> 27 & 1 == 1;
    if !has_xgetbv || __cpuid(0).eax < 7 {
        return false;
    }
    let [bf16, tiles] = [22, 24].map(|bit| __cpuid_count(7, 0).edx >> bit & 1 == 1);
    #[expect(unsafe_code, reason = "an instruction that not every machine has")]
    // SAFETY: the processor has it, and the system has enabled it (OSXSAVE).
    let kept = unsafe { _xgetbv(0) } >> 17 & 3 == 3;
    bf16 && tiles && kept
}

/// Asks Linux for the registers, once for all threads of the process. Other systems are not asked: products then use `vdpbf16ps`.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XTILEDATA: libc::c_ulong = 18;
        #[expect(unsafe_code, reason = "a system call without a wrapper")]
        // SAFETY: the call takes two numbers and changes only what threads may use.
        return unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0;
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Eight registers of 16 rows of 64 bytes (palette 1).
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static LAYOUT: Layout = Layout {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Implements [`Unit::sums`]. The block configures the registers and releases them, so nothing else depends on them.
fn in_registers(a: Rows<'_>, b: Rows<'_>, columns: [usize; 2], depth: usize, sums: &mut Sums) {
    let left = a.lanes.as_ptr();
    let [first, second] = columns.map(|column| b.lanes[column..].as_ptr());
    #[expect(unsafe_code, reason = "stable Rust has no functions for tiles")]
    // SAFETY: `sums` has checked that all rows lie in the operands, and `Unit::find` that the process may use the registers. The result
    // has 32 rows of 128 bytes.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{layout}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {a_stride}]",
            "tileloadd tmm6, [{first} + {b_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{second} + {b_stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {a_stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {first}, {b_step}",
            "add {second}, {b_step}",
            "sub {steps}, 1",
            "jnz 2b",
            "tilestored [{sums} + {wide}], tmm0",
            "tilestored [{sums} + {wide} + 64], tmm1",
            "tilestored [{sums} + {wide} + 2048], tmm2",
            "tilestored [{sums} + {wide} + 2112], tmm3",
            "tilerelease",
            layout = in(reg) &raw const LAYOUT,
            upper = inout(reg) left => _,
            lower = inout(reg) left.wrapping_add(16 * a.stride) => _,
            a_stride = in(reg) 4 * a.stride,
            first = inout(reg) first => _,
            second = inout(reg) second => _,
            b_stride = in(reg) 4 * b.stride,
            b_step = in(reg) 64 * b.stride,
            steps = inout(reg) depth / INNER => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            wide = in(reg) 4 * SIDE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
pub(super) mod definition;
