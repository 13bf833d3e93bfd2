use super::*;
use crate::device::launch::{Dtype, Float};
use crate::device::ledger::Ledger;
use crate::device::matmul::Form;
use crate::ops::gather::launch::gather;
use crate::testing::under_test;

#[test]
fn ranges_in_use_do_not_overlap_and_free_ones_are_joined() {
    let mut space = Space::default();
    let mut used: Vec<(u64, u64)> = Vec::new();
    let mut random = 1_u64;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut most = 0;
    for _ in 0..5000 {
        if used.len() > 20 || (draw(2) == 0 && !used.is_empty()) {
            let (at, len) = used.swap_remove(draw(used.len() as u64) as usize);
            space.give_back(at, len);
            continue;
        }
        let len = 1 + draw(100);
        let at = space.take(len);
        let apart = |(start, long): &(u64, u64)| at + len <= *start || start + long <= at;
        assert!(used.iter().all(apart) && at + len <= space.end);
        used.push((at, len));
        most = most.max(used.iter().map(|(_, len)| len).sum());
        // Nothing lies outside: used and free ranges fill the space.
        let all = used.iter().map(|(_, len)| len).chain(space.free.values());
        assert_eq!(all.sum::<u64>(), space.end);
    }
    for (at, len) in used {
        space.give_back(at, len);
    }
    assert_eq!(space.free, BTreeMap::from([(0, space.end)]));
    assert!(space.end < 2 * most, "{} for {most}", space.end);
}

#[test]
fn a_last_range_that_is_too_short_grows() {
    let mut space = Space::default();
    let (first, second) = (space.take(10), space.take(20));
    space.give_back(second, 20);
    assert_eq!((first, space.take(30), space.end), (0, 10, 40));
}

fn rows(device: &Device, x: &Memory, from: &Memory) -> Result<Memory> {
    let launch = gather(Float::F32, x.len() / 2, from.len(), 2)?;
    let given = [("x", x), ("from", from)];
    let [out] = device.run_all(&[launch], &given, ["out"])?;
    Ok(out)
}

/// Gathers twice, with intermediate results, multiplies and copies. Whatever lies in the inputs is computed each time.
#[test]
fn a_replay_computes_what_the_calls_compute() {
    let Some(device) = under_test() else {
        return;
    };
    let x = device.room(Dtype::F32, 8).unwrap();
    let from = device.put(&[1_u32, 2, 3, 0]).unwrap();
    let [left, right] = [[1.0_f32; 16], [0.5; 16]].map(|values| {
        let values = values.map(half::bf16::from_f32);
        device.put(&values).unwrap()
    });
    let product = Matmul {
        form: Form::Output,
        rows: 4,
        cols: 4,
        inner: 4,
        out: Float::F32,
        add: false,
    };
    let work = |device: &Device, out: &Memory| -> Result<()> {
        let once = rows(device, &x, &from)?;
        let twice = rows(device, &once, &from)?;
        drop(once);
        let again = rows(device, &twice, &from)?;
        device.copy(&out.part(0..8), &again)?;
        device.multiply(&product, Operands::new(&left, &right, &out.part(64..80)))
    };
    let [direct, replayed] = [(); 2].map(|()| device.put(&[0.0_f32; 80]).unwrap());
    let recording = Recording::of(|device| work(device, &replayed)).unwrap();
    // Two of three intermediate results are used at the same time.
    assert_eq!((recording.bytes(), recording.operations.len()), (512, 5));
    let short = device.room(Dtype::U8, 511).unwrap();
    let again = Recording::of(|device| work(device, &replayed)).unwrap();
    let error = again.on(&device, &short).err().unwrap().to_string();
    assert!(error.contains("needs 512 bytes, found 511"), "{error}");
    let room = device.room(Dtype::U8, 512).unwrap();
    let mut replay = recording.on(&device, &room).unwrap();
    for round in 0..3 {
        let values: Vec<f32> = (0..8).map(|at| (at * 10 + round) as f32).collect();
        device.write(&x, &values).unwrap();
        work(&device, &direct).unwrap();
        replay.start().unwrap();
        let expected = device.read::<f32>(&direct).unwrap();
        assert_eq!(device.read::<f32>(&replayed).unwrap(), expected);
        assert_eq!((expected[0], expected[64]), (values[6], 2.0));
    }
}

#[test]
fn a_recording_keeps_the_memory_that_it_uses() {
    let ledger = Ledger::default();
    let device = ledger.device();
    let record = || -> Result<Replay> {
        let (x, from) = (device.put(&[0.0_f32; 8])?, device.put(&[0_u32; 4])?);
        let recording = Recording::of(|device| rows(device, &x, &from).map(drop))?;
        recording.on(&device, &device.room(Dtype::U8, 256)?)
    };
    let replay = record().unwrap();
    ledger.clear();
    assert_eq!(ledger.most_bytes(), 32 + 16 + 256);
    drop(replay);
    ledger.clear();
    assert_eq!(ledger.most_bytes(), 0);
}

#[test]
fn what_a_replay_could_not_repeat_is_refused() {
    let device = Ledger::default().device();
    let x = device.put(&[0.0_f32; 8]).unwrap();
    let refused =
        |work: &dyn Fn(&Device) -> Result<()>| Recording::of(work).err().unwrap().to_string();
    let error = refused(&|device| device.put(&[1.0_f32]).map(drop));
    assert!(
        error.contains("a copy to the device cannot be recorded"),
        "{error}"
    );
    let error = refused(&|device| device.read::<f32>(&x).map(drop));
    assert!(error.contains("a copy from the device"), "{error}");
    let kept = std::cell::RefCell::new(None);
    let error = refused(&|device| {
        *kept.borrow_mut() = Some(device.room(Dtype::F32, 8)?);
        Ok(())
    });
    assert!(
        error.contains("memory that is still used (1 ranges)"),
        "{error}"
    );
}

/// A device without numbers that combines operations.
#[derive(Clone, Default)]
struct Combining(Ledger, Arc<Mutex<Vec<&'static str>>>);

struct Together(Combining);

impl Combined for Together {
    fn start(&self) -> Result<()> {
        self.0.1.lock().unwrap().push("together");
        Ok(())
    }
}

#[expect(unsafe_code, reason = "implements a trait; no address is used")]
impl Launcher for Combining {
    fn name(&self) -> String {
        "combining".into()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
        self.0.allocate(bytes)
    }

    fn free_bytes(&self) -> Result<usize> {
        self.0.free_bytes()
    }

    unsafe fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, _: u64, _: u64, _: usize) -> Result<()> {
        self.1.lock().unwrap().push("copy");
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor> {
        self.0.tensor(held, shape)
    }

    unsafe fn launch(&self, _: &Launch, addresses: &[u64]) -> Result<()> {
        assert!(addresses.iter().all(|at| *at < OWN));
        self.1.lock().unwrap().push("launch");
        Ok(())
    }

    unsafe fn multiply(&self, _: &Matmul, _: &Operands<u64>) -> Result<()> {
        Ok(())
    }

    unsafe fn combine(&self, operations: &[Operation]) -> Result<Option<Box<dyn Combined>>> {
        assert_eq!(operations.len(), 2);
        Ok(Some(Box::new(Together(self.clone()))))
    }
}

#[test]
fn operations_are_combined_after_each_was_started_once() {
    let combining = Combining::default();
    let device = Device::new(Arc::new(combining.clone()));
    let x = device.put(&[0.0_f32; 8]).unwrap();
    let from = device.put(&[0_u32; 4]).unwrap();
    let work = |device: &Device| device.copy(&x, &rows(device, &x, &from)?);
    let recording = Recording::of(work).unwrap();
    let room = device.room(Dtype::U8, recording.bytes()).unwrap();
    let mut replay = recording.on(&device, &room).unwrap();
    (0..3).for_each(|_| replay.start().unwrap());
    let calls = combining.1.lock().unwrap().clone();
    assert_eq!(calls, ["launch", "copy", "together", "together"]);
}
