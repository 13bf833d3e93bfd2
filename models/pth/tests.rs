use candle_core::{Device, Tensor};

use super::*;
use crate::testing::fixture;

/// Returns all bytes of all tensors of a file.
fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut pth = Pth::open(file.path())?;
    let names: Vec<String> = pth.contents.tensors.keys().cloned().collect();
    let all = names.iter().map(|name| pth.bytes(name));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

#[test]
fn damage_of_a_pth_file_is_an_error_or_changes_nothing() {
    let whole = std::fs::read(fixture("vit/layouts.pth")).unwrap();
    let expected = read(&whole).unwrap();
    assert!(expected.len() > 50_000);
    // All over the archive, densely in its first header and in its directory.
    let dense = (0..60).chain(whole.len() - 200..whole.len());
    for at in dense.chain((0..whole.len()).step_by(101)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        assert!(
            read(&damaged).is_ok_and(|b| b == expected) || read(&damaged).is_err(),
            "byte {at}"
        );
        assert!(read(&whole[..at]).is_err(), "cut at {at}");
    }
    // The pickle, past the archive's checksum: every seventh byte becomes every code that the parser knows.
    let mut archive = ZipArchive::new(std::io::Cursor::new(whole)).unwrap();
    let mut pickle = Vec::new();
    let mut entry = archive.by_name("layouts/data.pkl").unwrap();
    entry.read_to_end(&mut pickle).unwrap();
    let codes = b"0123().qrhjNGKMJXUTBCcQtldaebsuR]}\x00\x7f\xff";
    for at in (0..pickle.len()).step_by(7) {
        for code in codes.iter().copied().chain(0x80..=0x97) {
            let mut damaged = pickle.clone();
            damaged[at] = code;
            if let Ok((nodes, root)) = Parser::parse(&damaged) {
                let _ = Nodes(nodes).contents(root);
            }
        }
    }
}

/// A tensor that claims 2^62 elements, a pickle that contains itself, tuples and calls nested a million times, and long names.
#[test]
fn a_hostile_pickle_needs_little() {
    let own = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01h\x00s.";
    let (nodes, root) = Parser::parse(own).unwrap();
    assert!(Nodes(nodes).contents(root).unwrap().tensors.is_empty());
    let deep = [b"N".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
    let (nodes, root) = Parser::parse(&deep).unwrap();
    assert!(Nodes(nodes).contents(root).unwrap().tensors.is_empty());
    let calls = [
        b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_parameter\nq\x00".to_vec(),
        b"h\x00".repeat(1_000_000),
        b"N".to_vec(),
        b"\x85R".repeat(1_000_001),
        b"s.".to_vec(),
    ];
    let (nodes, root) = Parser::parse(&calls.concat()).unwrap();
    assert!(Nodes(nodes).contents(root).unwrap().tensors.is_empty());
    // A name of a megabyte is the module and the name of a hundred thousand classes.
    let long = [
        b"X\x00\x00\x10\x00".to_vec(),
        vec![b'a'; 1 << 20],
        b"q\x00".to_vec(),
    ]
    .concat();
    let classes = [long, b"h\x00h\x00\x93".repeat(100_000), b".".to_vec()];
    Parser::parse(&classes.concat()).unwrap();
    let nested = [
        b"}X\x01\x00\x00\x00a".repeat(100_000),
        b"}".to_vec(),
        b"s".repeat(100_000),
        b".".to_vec(),
    ];
    let (nodes, root) = Parser::parse(&nested.concat()).unwrap();
    assert!(
        Nodes(nodes)
            .contents(root)
            .is_err_and(|e| e.contains("1024 bytes"))
    );
    // One tensor under a hundred thousand names, and one with a million axes.
    let storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NNtQ";
    let tensor = |axes: usize| {
        let ints = [b"(".to_vec(), b"K\x01".repeat(axes), b"t".to_vec()].concat();
        let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        [
            rebuild,
            storage.to_vec(),
            b"K\x00".to_vec(),
            ints.clone(),
            ints,
            b"tR".to_vec(),
        ]
        .concat()
    };
    let named = |axes: usize, names: u32| {
        let item = |n: u32| format!("X\x06\x00\x00\x00{n:06}h\x00").into_bytes();
        let items: Vec<u8> = (0..names).flat_map(item).collect();
        let pickle = [tensor(axes), b"q\x000}(".to_vec(), items, b"u.".to_vec()].concat();
        let (nodes, root) = Parser::parse(&pickle).unwrap();
        Nodes(nodes).contents(root).map(|found| found.tensors.len())
    };
    assert_eq!(named(4, 300), Ok(300));
    assert_eq!(named(1_000_000, 300), Ok(0));
    assert!(named(4, 100_000).is_err_and(|e| e.contains("65536 tensors")));
    let mut pth = Pth::open(&fixture("vit/layouts.pth")).unwrap();
    let name = "teacher.backbone.pos_embed";
    let tensor = pth.contents.tensors.get_mut(name).unwrap();
    (tensor.shape, tensor.strides) = (vec![1 << 31, 1 << 31], vec![0, 0]);
    assert!(pth.bytes(name).unwrap_err().contains("elements"));
}

#[test]
fn a_pickle_above_the_limit_and_big_endian_numbers_are_refused() {
    let open = |pickle: &[u8], order: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = zip::ZipWriter::new(file.reopen().unwrap());
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in [("x/data.pkl", pickle), ("x/byteorder", order)] {
            archive.start_file(name, stored).unwrap();
            std::io::Write::write_all(&mut archive, bytes).unwrap();
        }
        archive.finish().unwrap();
        Pth::open(file.path()).map(|pth| pth.contents.tensors.len())
    };
    assert_eq!(open(b"}.", b"little"), Ok(0));
    assert!(open(b"}.", b"big").is_err_and(|e| e.contains("big-endian")));
    let long = [vec![b'}'; PICKLE as usize], b".".to_vec()].concat();
    let size = long.len().to_string();
    assert!(open(&long, b"little").is_err_and(|e| e.contains(&size)));
}

/// PyTorch's own files of `fuzz/seeds.py`: channels-last, expanded, sliced, half precision, a Parameter, buffers of integers and booleans.
#[test]
fn pytorchs_layouts_and_protocols_are_read() {
    for protocol in [2, 4] {
        let path = format!(
            "{}/../fuzz/corpus/pth/protocol{protocol}",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut pth = Pth::open(Path::new(&path)).unwrap();
        let names: Vec<String> = pth.contents.tensors.keys().cloned().collect();
        let mut numbers = |name: &str| -> Vec<f32> {
            let name = format!("model.{name}");
            let bytes = pth.bytes(&name).unwrap();
            let (dtype, shape) = (
                pth.contents.tensors[&name].dtype,
                &pth.contents.tensors[&name].shape[..],
            );
            let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu).unwrap();
            crate::testing::values(&tensor.to_dtype(DType::F32).unwrap())
        };
        let first = |n: u8| Vec::from_iter((0..n).map(f32::from));
        for (name, expected) in [
            ("patch_embed.proj.weight", first(24)),
            ("expanded", vec![1.0; 12]),
            ("sliced", vec![12.0, 14.0, 16.0, 18.0]),
            ("half", first(4)),
            ("brain", first(4)),
            ("parameter", first(4)),
        ] {
            assert_eq!(numbers(name), expected, "{name}, protocol {protocol}");
        }
        assert_eq!(names.len(), 6, "{names:?}");
    }
}

/// Each of thousands of views read the whole storage.
#[test]
fn a_storage_of_several_tensors_is_read_once() {
    let mut pth = Pth::open(&fixture("vit/flat.pth")).unwrap();
    let mut numbers = |name: &str| -> (Vec<f32>, Option<*const u8>) {
        let bytes = pth.bytes(name).unwrap();
        let bytes = bytes.as_chunks::<4>().0.iter();
        let held = pth.shared.values().next().map(|bytes| bytes.as_ptr());
        (
            bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            held,
        )
    };
    let (a, first) = numbers("a");
    let (c, _) = numbers("c");
    let (b, second) = numbers("b");
    assert_eq!(a, [2.0, 3.0, 4.0, 5.0]);
    assert_eq!(b, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(c, [20.0]);
    assert!(first.is_some() && first == second);
}

/// Its numbers were read with the other sign.
#[test]
fn a_view_with_the_negative_bit_is_no_tensor() {
    let pth = Pth::open(&fixture("vit/negative.pth")).unwrap();
    let names: Vec<&String> = pth.contents.tensors.keys().collect();
    assert_eq!(names, ["v"]);
    let mut unread = pth.contents.unread.values();
    assert!(unread.any(|why| why.contains("resolve_neg")));
}

/// A call of `function` with the arguments `inside`, in a pickle.
fn call(function: &str, inside: &[u8]) -> Vec<u8> {
    let (module, name) = function.rsplit_once('.').unwrap();
    [format!("c{module}\n{name}\n(").as_bytes(), inside, b"tR"].concat()
}

fn contents(pickle: &[u8]) -> Contents {
    let (nodes, root) = Parser::parse(&[pickle, b"."].concat()).unwrap();
    Nodes(nodes).contents(root).unwrap()
}

/// An error that the tensor is absent would name the wrong remedy.
#[test]
fn tensors_that_cannot_be_weights_say_why() {
    let storage = |class: &str| {
        let storage = format!("(X\x07\0\0\0storagectorch\n{class}\nX\x01\0\0\0NNtQK\0)");
        [storage.as_bytes(), b")"].concat()
    };
    for (function, inside, part) in [
        ("_rebuild_sparse_tensor", vec![], "tensor.to_dense()"),
        ("_rebuild_qtensor", vec![], "tensor.dequantize()"),
        ("_rebuild_meta_tensor_no_storage", vec![], "has no values"),
        ("_rebuild_tensor_v3", vec![], "float8"),
        ("_rebuild_wrapper_subclass", vec![], "detach()"),
        ("_rebuild_tensor_v2", storage("CharStorage"), "has integers"),
        (
            "_rebuild_tensor_v2",
            storage("ComplexFloatStorage"),
            "complex",
        ),
        ("_rebuild_tensor_v2", vec![], "damaged"),
    ] {
        let tensor = call(&format!("torch._utils.{function}"), &inside);
        let found = contents(&[b"}X\x01\0\0\0w", &tensor[..], b"s"].concat());
        assert!(found.tensors.is_empty() && found.objects.is_empty());
        assert!(
            found.unread["w"].contains(part),
            "{function}: {}",
            found.unread["w"]
        );
    }
    let float = call("torch._utils._rebuild_tensor_v2", &storage("FloatStorage"));
    let found = contents(&[b"}X\x01\0\0\0w", &float[..], b"s"].concat());
    assert_eq!((found.tensors.len(), found.unread.len()), (1, 0));
}

#[test]
fn objects_lists_and_tuples_are_named() {
    let model = call("timm.vit.VisionTransformer", b"");
    let older = call("copyreg._reconstructor", b"cmy\nNet\ncbuiltins\nobject\nN");
    let under = |value: &[u8]| [b"}X\x05\0\0\0model", value, b"s"].concat();
    for (pickle, expected) in [
        (
            model.clone(),
            "a pickled object of the class `timm.vit.VisionTransformer`",
        ),
        (older, "a pickled object of the class `my.Net`"),
        (b"]".to_vec(), "a list"),
        (b")".to_vec(), "a tuple"),
        (
            under(&model),
            "a pickled object of the class `timm.vit.VisionTransformer` under `model`",
        ),
        (under(b"]"), "a list under `model`"),
    ] {
        assert_eq!(contents(&pickle).objects, [expected]);
    }
    assert!(contents(&under(b"}")).objects.is_empty());
}

/// One of the two won unseen.
#[test]
fn two_tensors_of_one_name_are_refused_and_keys_of_numbers_are_read() {
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NNtQK\x00))tR";
    let text = |key: &[u8]| [b"X", &(key.len() as u32).to_le_bytes()[..], key].concat();
    let names = |items: &[(Vec<u8>, Vec<u8>)]| {
        let items = items
            .iter()
            .map(|(key, value)| [&key[..], value, b"s"].concat());
        let pickle = [
            b"}".to_vec(),
            items.collect::<Vec<_>>().concat(),
            b".".to_vec(),
        ]
        .concat();
        let (nodes, root) = Parser::parse(&pickle).unwrap();
        let found = Nodes(nodes).contents(root)?;
        let end = |name: &String| found.numbered.get(name).copied().unwrap_or(0);
        let names = found
            .tensors
            .keys()
            .map(|name| format!("{name} {}", end(name)));
        Ok(names.collect::<Vec<_>>())
    };
    let inner = |key: &[u8]| [b"}", &text(key)[..], tensor, b"s"].concat();
    let nested = (text(b"a"), inner(b"b"));
    assert_eq!(
        names(std::slice::from_ref(&nested)),
        Ok(vec!["a.b 0".to_owned()])
    );
    let refused: Result<Vec<String>> = names(&[nested, (text(b"a.b"), tensor.to_vec())]);
    assert_eq!(refused.unwrap_err(), "its pickle has two tensors `a.b`");
    let number = (b"K\x00".to_vec(), inner(b"b"));
    assert_eq!(
        names(std::slice::from_ref(&number)),
        Ok(vec!["0.b 1".to_owned()])
    );
    assert!(names(&[number, (text(b"0"), inner(b"b"))]).is_err());
    let truth = (b"\x88".to_vec(), inner(b"b"));
    assert_eq!(names(&[truth]), Ok(vec!["(key 0).b 7".to_owned()]));
}

#[test]
fn an_archive_of_two_checkpoints_is_refused() {
    use std::io::Write as _;
    let archive = |names: &[&str]| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in names {
            zip.start_file(*name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(b"}.").unwrap();
        }
        read(&zip.finish().unwrap().into_inner())
    };
    assert!(
        archive(&["c/data.pkl", "c/extra/data.pkl"])
            .unwrap()
            .is_empty()
    );
    let error = archive(&["c/data.pkl", "d/data.pkl"]).unwrap_err();
    assert!(
        error.contains("holds `c/data.pkl` and `d/data.pkl`"),
        "{error}"
    );
}
