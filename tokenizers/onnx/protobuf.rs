//! Reader of the protocol buffer wire format. It borrows the fields of a message from its bytes.
//!
//! The engines' own readers disagree about malformed files. This one also copies no weights.
//! <https://protobuf.dev/programming-guides/encoding/>

/// Value of a field.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A message, a text, or packed numbers.
    Bytes(&'a [u8]),
    /// A number of fixed width.
    Fixed(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Returns the bytes.
    ///
    /// # Errors
    /// If the value is a number.
    pub fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("found a number, expected a message".into()),
        }
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    /// If the value is a number or not UTF-8.
    pub fn text(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a name is not UTF-8".into())
    }

    /// Returns the number.
    ///
    /// # Errors
    /// If the value is not a number.
    pub fn number(self) -> Result<i64, String> {
        match self {
            // Protobuf stores a negative number as its two's complement.
            Self::Number(number) => Ok(number.cast_signed()),
            _ => Err("found a message, expected a number".into()),
        }
    }
}

/// Returns the fields of `message` in order: number and value.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// Iterator of [`fields`]. It ends after the first error.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).ok();
        let parts = count.and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = parts.ok_or("it ends in the middle of a field; the file is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a varint: seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64, String> {
        let length = self.rest.iter().take(10).position(|byte| byte & 0x80 == 0);
        // Without a last byte the message is cut off (`take` fails) or the number is too long.
        let bytes = self.take(length.map_or(10, |last| last as u64 + 1))?;
        if length.is_none() {
            return Err("a number has more than 64 bits".into());
        }
        let bytes = bytes.iter().rev();
        Ok(bytes.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)))
    }

    /// Reads the next of packed numbers, which have no tags.
    pub fn packed(&mut self) -> Option<Result<u64, String>> {
        (!self.rest.is_empty()).then(|| self.number())
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(Value::Fixed)?,
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(Value::Fixed)?,
            _ => return Err("a field has an unknown type".into()),
        };
        match tag >> 3 {
            0 => Err("a field has no number".into()),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_messages_and_fixed_widths_are_read() {
        // The example of the protobuf documentation (150), a text, 32 and 64 bits, and -1.
        let mut message = vec![0x08, 0x96, 0x01, 0x12, 2, b'h', b'i'];
        message.extend([0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x28]);
        message.extend([0xff; 9]);
        message.push(1);
        let read: Vec<_> = fields(&message).map(Result::unwrap).collect();
        let numbers: Vec<u64> = read.iter().map(|field| field.0).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(read[0].1.number(), Ok(150));
        assert_eq!(read[1].1.text(), Ok("hi"));
        assert_eq!(read[4].1.number(), Ok(-1));
        assert!(read[0].1.bytes().is_err() && read[1].1.number().is_err());
    }

    #[test]
    fn malformed_messages_are_errors() {
        for (message, said) in [
            (&[0x12, 5, b'h'][..], "cut off"),
            (&[0x08], "cut off"),
            (&[0x08, 0x80, 0x80], "cut off"),
            (&[0x0d, 1, 2], "cut off"),
            (
                &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                "cut off",
            ),
            (&[0x80; 12], "64 bits"),
            (&[0x0b, 0x0c], "unknown type"),
            (&[0x00, 0x01], "no number"),
        ] {
            let error = fields(message).find_map(Result::err).unwrap();
            assert!(error.contains(said), "{message:?}: {error}");
            assert!(fields(message).count() <= message.len());
        }
    }
}
