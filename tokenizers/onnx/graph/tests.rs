use super::*;

/// Encodes a message of less than 2^28 bytes in a field below 16.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let length = [0, 7, 14, 21].map(|shift| (content.len() >> shift) as u8 | 0x80);
    let head = [
        field << 3 | 2,
        length[0],
        length[1],
        length[2],
        length[3] & 0x7f,
    ];
    [&head[..], content].concat()
}

fn names(field: u8, count: usize) -> Vec<u8> {
    let names = (0..count).flat_map(|n| message(field, n.to_string().as_bytes()));
    names.collect()
}

/// A node was visited once for each of its outputs, and its inputs with it.
#[test]
fn a_node_of_many_outputs_is_reached_once() {
    let many = [names(1, 3000), names(2, 3000)].concat();
    let last = [names(1, 3000), message(2, b"y")].concat();
    let file = message(7, &[message(1, &many), message(1, &last)].concat());
    let onnx = Onnx::read(&file).unwrap();
    assert_eq!(onnx.reached("y").len(), 2);
}

/// Elements of two bytes that take a hundred in memory.
#[test]
fn a_graph_of_too_many_parts_is_refused() {
    let empty = |field: u8| [field << 3 | 2, 0].repeat(MOST_PARTS + 1);
    for (graph, part) in [
        (empty(11), "attributes"),
        (empty(1), "nodes"),
        (message(1, &empty(5)), "attributes"),
        (message(1, &message(5, &empty(6))), "attributes"),
    ] {
        let error = Onnx::read(&message(7, &graph)).err().unwrap();
        assert!(error.contains(part), "{error}");
    }
}

/// ONNX Runtime took those of inner graphs and of sparse tensors from the working directory.
#[test]
fn external_parts_of_inner_graphs_and_sparse_tensors_are_told_from_others() {
    let place = [message(1, b"location"), message(2, b"w")].concat();
    let tensor = [message(13, &place), vec![14 << 3, 1]].concat();
    let node = |attribute: &[u8]| message(1, &message(5, attribute));
    for (graph, is_inner) in [
        (message(5, &tensor), false),
        (node(&message(5, &tensor)), false),
        (message(15, &message(1, &tensor)), true),
        (node(&message(6, &message(5, &tensor))), true),
        (node(&message(11, &node(&message(5, &tensor)))), true),
        (node(&message(10, &tensor)), true),
    ] {
        let file = message(7, &graph);
        let onnx = Onnx::read(&file).unwrap();
        assert_eq!(onnx.external().len(), 1);
        assert_eq!(onnx.has_inner_external(), is_inner, "{graph:?}");
    }
}
