//! Reading that goes on after a signal.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// A reader that reads again when a signal interrupts it, as network file systems report it. [`Read::read`] and libraries that call it, such
/// as `tar`, would end there.
pub struct ReadOn<R>(pub R);

impl<R: Read> Read for ReadOn<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl<R: Seek> Seek for ReadOn<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}
