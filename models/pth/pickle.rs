//! Python's pickle format, protocols 2 to 5, as a list of nodes. Nothing is built or called.

use std::collections::HashMap;

type Result<T> = std::result::Result<T, String>;

const EMPTY: &str = "its pickle takes from an empty stack";

/// Index of a node. Nodes lie in one list, so that cycles and depth of a damaged pickle need neither recursion nor memory.
pub type Id = usize;

pub enum Node {
    /// Anything that is no part of a tensor.
    Other,
    /// Begin of items on the stack.
    Mark,
    /// An integer of at least 0.
    Int(usize),
    /// A text.
    Text(String),
    /// Class or function: texts of module and name.
    Global(Id, Id),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List,
    /// Keys and values of a dictionary.
    Dict(Vec<(Id, Id)>),
    /// An object outside the pickle, and its description.
    Persistent(Id),
    /// A call that would build an object: function and arguments.
    Call(Id, Id),
}

/// The machine of Python's `pickletools.py`, protocols 2 to 5.
#[derive(Default)]
pub struct Parser<'a> {
    rest: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Id>,
    memo: HashMap<u64, Id>,
}

impl<'a> Parser<'a> {
    /// All nodes of a pickle, and its root.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pickle: &'a [u8]) -> Result<(Vec<Node>, Id)> {
        let mut parser = Self {
            rest: pickle,
            ..Self::default()
        };
        loop {
            match parser.number(1)? as u8 {
                b'.' => break,
                code => parser.step(code)?,
            }
        }
        let root = parser.pop()?;
        Ok((parser.nodes, root))
    }

    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'q' | b'r' | 0x94 => self.memorize(code)?,
            b'h' | b'j' => {
                let index = self.number(if code == b'h' { 1 } else { 4 })?;
                let id = *self
                    .memo
                    .get(&index)
                    .ok_or("reads what it has not memorized")?;
                self.stack.push(id);
            }
            b'(' => self.push(Node::Mark),
            b')' => self.push(Node::Tuple(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' => self.push(Node::List),
            b'N' | 0x88 | 0x89 | 0x8f => self.push(Node::Other),
            b'G' => self.other(8)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(code)?,
            b'X' | b'U' | b'T' | 0x8c | 0x8d => self.string(code)?,
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.number(match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.other(length)?;
            }
            b'c' | 0x93 => self.class(code)?,
            b'Q' => {
                let about = self.pop()?;
                self.push(Node::Persistent(about));
            }
            _ => self.compound(code)?,
        }
        Ok(())
    }

    /// Interprets codes that take values from the stack.
    fn compound(&mut self, code: u8) -> Result<()> {
        match code {
            b't' | b'l' | 0x91 | b'd' => {
                let items = self.pop_mark()?;
                self.push(match code {
                    b't' => Node::Tuple(items),
                    b'd' => Node::Dict(pairs(&items)),
                    b'l' => Node::List,
                    _ => Node::Other,
                });
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(code - 0x84));
                let items = self.stack.split_off(start.ok_or(EMPTY)?);
                self.push(Node::Tuple(items));
            }
            // Items of lists and sets, and the state of objects, hold no tensor of a state dictionary.
            b'a' | b'b' => drop(self.pop()?),
            b'e' | 0x90 => drop(self.pop_mark()?),
            b's' | b'u' => {
                let items = match code {
                    b'u' => self.pop_mark()?,
                    _ => {
                        let value = self.pop()?;
                        vec![self.pop()?, value]
                    }
                };
                let at = self.top()?;
                if let Node::Dict(dict) = &mut self.nodes[at] {
                    dict.extend(pairs(&items));
                }
            }
            b'R' | 0x81 | 0x92 => {
                if code == 0x92 {
                    self.pop()?;
                }
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.push(match self.makes_dict(function) {
                    true => Node::Dict(Vec::new()),
                    false => Node::Call(function, arguments),
                });
            }
            code => return Err(format!("unknown code {code:#04x} in its pickle")),
        }
        Ok(())
    }

    fn memorize(&mut self, code: u8) -> Result<()> {
        let index = match code {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len() as u64,
        };
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    /// Parses an integer. No tensor has a negative integer or one above 64 bits.
    fn integer(&mut self, code: u8) -> Result<()> {
        let length = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8a => self.number(1)?,
            _ => self.number(4)?,
        };
        let bytes = self.take(length)?;
        let signed = !matches!(code, b'K' | b'M');
        let negative = signed && bytes.last().is_some_and(|high| *high >= 0x80);
        let value = (!negative && bytes.len() <= 8).then(|| little(bytes) as usize);
        self.push(value.map_or(Node::Other, Node::Int));
        Ok(())
    }

    fn string(&mut self, code: u8) -> Result<()> {
        let length = self.number(match code {
            b'U' | 0x8c => 1,
            0x8d => 8,
            _ => 4,
        })?;
        let bytes = self.take(length)?;
        self.push(Node::Text(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    /// Parses a class or function by module and name, which are lines or on the stack.
    fn class(&mut self, code: u8) -> Result<()> {
        if code == b'c' {
            for _ in 0..2 {
                let text = self.line()?;
                self.push(Node::Text(text));
            }
        }
        let (name, module) = (self.pop()?, self.pop()?);
        self.push(Node::Global(module, name));
        Ok(())
    }

    /// Whether a call of `function` makes a dictionary.
    fn makes_dict(&self, function: Id) -> bool {
        let Node::Global(_, name) = self.nodes[function] else {
            return false;
        };
        let ends = |text: &str| text.ends_with("Dict") || text.ends_with("dict");
        matches!(&self.nodes[name], Node::Text(text) if ends(text))
    }

    fn line(&mut self) -> Result<String> {
        let length = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(length.ok_or("its pickle ends too early")? as u64)?;
        let line = String::from_utf8_lossy(line).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn other(&mut self, length: u64) -> Result<()> {
        self.take(length)?;
        self.push(Node::Other);
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.stack.pop();
        id.ok_or_else(|| EMPTY.into())
    }

    fn top(&self) -> Result<Id> {
        let id = self.stack.last().copied();
        id.ok_or_else(|| EMPTY.into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let is_mark = |id: &Id| matches!(self.nodes[*id], Node::Mark);
        let mark = self.stack.iter().rposition(is_mark);
        let items = self.stack.split_off(mark.ok_or("its pickle lacks a mark")?);
        Ok(items[1..].to_vec())
    }

    fn number(&mut self, length: u64) -> Result<u64> {
        self.take(length).map(little)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length)
            .ok()
            .and_then(|n| self.rest.split_at_checked(n));
        let (taken, rest) = split.ok_or("its pickle ends too early")?;
        self.rest = rest;
        Ok(taken)
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}
