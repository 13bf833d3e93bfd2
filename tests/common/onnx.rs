//! Writes ONNX files: protocol buffer messages, and a small encoder with known ids.

/// Encodes a number in a field.
pub fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

/// Encodes a message, a text or packed numbers in a field.
pub fn message(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// `TensorProto.DataType`.
pub const FLOAT: i64 = 1;
/// `TensorProto.DataType`.
pub const INT64: i64 = 7;

/// A graph under construction. Every member is a sequence of fields of `GraphProto`.
#[derive(Clone, Default)]
pub struct Model {
    /// Version of the file format.
    pub ir: i64,
    /// Version of the operator set.
    pub opset: i64,
    nodes: Vec<u8>,
    weights: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
}

impl Model {
    /// Creates a graph with only an input.
    pub fn new(element: i64, dims: &[i64]) -> Self {
        Self {
            ir: 8,
            opset: 17,
            ..Self::default()
        }
        .input("images", element, dims)
    }

    /// Adds an input; -1 is an open dimension.
    pub fn input(mut self, name: &str, element: i64, dims: &[i64]) -> Self {
        self.inputs.extend(message(11, port(name, element, dims)));
        self
    }

    /// Adds an output.
    pub fn output(mut self, name: &str, element: i64, dims: &[i64]) -> Self {
        self.outputs.extend(message(12, port(name, element, dims)));
        self
    }

    /// Adds an operator.
    pub fn node(
        mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Vec<u8>],
    ) -> Self {
        let (domain, operator) = operator.rsplit_once('/').unwrap_or(("", operator));
        let inputs = inputs.iter().flat_map(|name| message(1, name));
        let outputs = outputs.iter().flat_map(|name| message(2, name));
        let mut node: Vec<u8> = inputs.chain(outputs).collect();
        node.extend(message(4, operator));
        node.extend(attributes.iter().flat_map(|a| message(5, a)));
        node.extend(message(7, domain));
        self.nodes.extend(message(1, node));
        self
    }

    /// Adds f32 weights.
    pub fn weights(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, FLOAT, dims, &raw)
    }

    /// Adds weights of any type from their bytes.
    pub fn tensor(mut self, name: &str, element: i64, dims: &[i64], raw: &[u8]) -> Self {
        let tensor = [tensor(name, element, dims), message(9, raw)].concat();
        self.weights.extend(message(5, tensor));
        self
    }

    /// Adds i64 integers.
    pub fn integers(mut self, name: &str, values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = [tensor(name, INT64, &[values.len() as i64]), message(9, raw)];
        self.weights.extend(message(5, tensor.concat()));
        self
    }

    /// Adds f32 weights in an external file; `place` has its path and other entries.
    pub fn external(mut self, name: &str, dims: &[i64], place: &[(&str, &str)]) -> Self {
        let mut tensor = tensor(name, FLOAT, dims);
        for (key, value) in place {
            tensor.extend(message(13, [message(1, key), message(2, value)].concat()));
        }
        tensor.extend(number(14, 1));
        self.weights.extend(message(5, tensor));
        self
    }

    /// Returns the bytes of the file.
    pub fn file(&self) -> Vec<u8> {
        let graph = [
            self.nodes.clone(),
            message(2, "graph"),
            self.weights.clone(),
            self.inputs.clone(),
            self.outputs.clone(),
        ];
        [
            number(1, self.ir),
            message(7, graph.concat()),
            message(8, number(2, self.opset)),
        ]
        .concat()
    }
}

fn port(name: &str, element: i64, dims: &[i64]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|dim| match dim {
        -1 => message(1, message(2, "open")),
        _ => message(1, number(1, *dim)),
    });
    let shape: Vec<u8> = dims.collect();
    let array = [number(1, element), message(2, shape)].concat();
    [message(1, name), message(2, message(1, array))].concat()
}

fn tensor(name: &str, element: i64, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    [dims, number(2, element), message(8, name)].concat()
}

/// Encodes a numeric attribute.
pub fn int(name: &str, value: i64) -> Vec<u8> {
    [message(1, name), number(3, value), number(20, 2)].concat()
}

/// Encodes an attribute with a list of numbers.
pub fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|v| number(8, *v)).collect();
    [message(1, name), values, number(20, 7)].concat()
}

/// Encodes a text attribute.
pub fn text(name: &str, value: &str) -> Vec<u8> {
    [message(1, name), message(4, value), number(20, 3)].concat()
}

/// Number of codes of [`encoder`].
pub const CODES: i64 = 8;

/// Returns the weights of [`encoder`]: one code after another, each 3 x 4 x 4.
pub fn codes() -> Vec<f32> {
    let at = 0..CODES * 48;
    at.map(|at| ((at * at * 31 + at * 17) % 97) as f32 / 97.0 - 0.5)
        .collect()
}

/// Returns a graph of scores `f` `[batch, 8, 4, 4]` of `images` `[batch, 3, 16, 16]`: a convolution of 4 x 4 patches.
pub fn encoder() -> Model {
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]);
    scores(images.weights("w", &[CODES, 3, 4, 4], &codes()))
}

/// Adds the convolution of [`encoder`] with weights `w`.
pub fn scores(model: Model) -> Model {
    let attributes = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    model.node("Conv", &["images", "w"], &["f"], &attributes)
}

/// Adds ids `ids` `[batch, 4, 4]` of scores `f`.
pub fn argmax(model: Model) -> Model {
    model.node(
        "ArgMax",
        &["f"],
        &["ids"],
        &[int("axis", 1), int("keepdims", 0)],
    )
}

/// Returns `file` with another output of its graph, appended after the graph's last field.
pub fn with_output(file: &[u8], name: &str) -> Vec<u8> {
    let (mut rest, mut written) = (file, Vec::new());
    while !rest.is_empty() {
        let before = rest;
        let tag = read(&mut rest);
        match tag & 7 {
            0 => {
                read(&mut rest);
            }
            2 => {
                let length = read(&mut rest) as usize;
                let content = &rest[..length];
                rest = &rest[length..];
                if tag >> 3 == 7 {
                    let element = message(2, message(1, number(1, FLOAT)));
                    let port = [message(1, name), element].concat();
                    let graph = [content, &message(12, port)].concat();
                    written.extend(message(7, graph));
                    continue;
                }
            }
            other => panic!("type {other}"),
        }
        written.extend(&before[..before.len() - rest.len()]);
    }
    written
}

fn read(rest: &mut &[u8]) -> u64 {
    let length = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (number, more) = rest.split_at(length);
    *rest = more;
    let digits = number.iter().rev();
    digits.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

/// Returns a graph of `floor(largest value of a patch of 4 pixels * 7)`.
pub fn largest() -> Vec<u8> {
    let pooling = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    let model = Model::new(FLOAT, &[-1, 3, 16, 16]).weights("seven", &[1], &[7.0]);
    let model = model.node("MaxPool", &["images"], &["p"], &pooling);
    let over = [ints("axes", &[1]), int("keepdims", 0)];
    let model = model.node("ReduceMax", &["p"], &["m"], &over);
    let model = model.node("Mul", &["m", "seven"], &["s"], &[]);
    let model = model.node("Cast", &["s"], &["ids"], &[int("to", INT64)]);
    model.output("ids", INT64, &[-1, 4, 4]).file()
}

/// Returns a graph of the codes of groups of two and four whose joint code is the id of [`largest`].
pub fn largest_in_groups() -> Vec<u8> {
    let pooling = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    let model = Model::new(FLOAT, &[-1, 3, 16, 16]).weights("seven", &[1], &[7.0]);
    let model = model.weights("four", &[1], &[4.0]);
    let model = model.node("MaxPool", &["images"], &["p"], &pooling);
    let over = [ints("axes", &[1]), int("keepdims", 1)];
    let model = model.node("ReduceMax", &["p"], &["m"], &over);
    let model = model.node("Mul", &["m", "seven"], &["s"], &[]);
    let model = model.node("Floor", &["s"], &["id"], &[]);
    let model = model.node("Div", &["id", "four"], &["quarter"], &[]);
    let model = model.node("Floor", &["quarter"], &["high"], &[]);
    let model = model.node("Mul", &["high", "four"], &["below"], &[]);
    let model = model.node("Sub", &["id", "below"], &["low"], &[]);
    let model = model.node("Concat", &["high", "low"], &["both"], &[int("axis", 1)]);
    let last = [ints("perm", &[0, 2, 3, 1])];
    let model = model.node("Transpose", &["both"], &["codes"], &last);
    let model = model.node("Cast", &["codes"], &["ids"], &[int("to", INT64)]);
    model.output("ids", INT64, &[-1, 4, 4, 2]).file()
}
