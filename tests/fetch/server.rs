//! A server on the loopback that has one file, and archives to serve.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the server answers a request.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The bytes that are asked for.
    Whole,
    /// The bytes that are asked for, up to this number; then the connection ends.
    Cut(usize),
    /// All bytes, whatever is asked for.
    IgnoringRange,
    /// The bytes that are asked for, a kilobyte at a time.
    Slow,
    /// All bytes, said to be encoded in this way.
    Encoded(&'static str),
    /// A status without bytes.
    Status(u16),
}

/// The server.
pub struct Server {
    /// Address of the file.
    pub url: String,
    asked: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    /// Serves `file`. The first requests get `answers`, later ones the last of them.
    pub fn start(file: &[u8], answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/archive", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, file, answers) = (Arc::clone(&asked), file.to_owned(), answers.to_owned());
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let start = start(&stream);
                seen.lock().unwrap().push(start);
                let answer = answers[number.min(answers.len() - 1)];
                // The client may have gone.
                let _ = respond(&stream, &file, start, answer);
            }
        });
        Self { url, asked }
    }

    /// Returns the first byte that each request asked for with `Range`.
    pub fn asked(&self) -> Vec<Option<usize>> {
        self.asked.lock().unwrap().clone()
    }
}

fn start(stream: &TcpStream) -> Option<usize> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": bytes=")?;
        name.eq_ignore_ascii_case("range").then_some(())?;
        value.trim_end_matches('-').parse().ok()
    })
}

fn respond(
    mut stream: &TcpStream,
    file: &[u8],
    start: Option<usize>,
    answer: Answer,
) -> std::io::Result<()> {
    let all = file.len();
    let (from, range) = match (start, answer) {
        (_, Answer::IgnoringRange | Answer::Encoded(_)) | (None, _) => (0, None),
        (Some(start), _) => (start, Some(format!("bytes {start}-{}/{all}", all - 1))),
    };
    let body = &file[from.min(all)..];
    let (status, body) = match answer {
        Answer::Status(status) => (status, &body[..0]),
        _ if from >= all => (416, &body[..0]),
        _ if range.is_some() => (206, body),
        _ => (200, body),
    };
    let range = match status {
        416 => format!("content-range: bytes */{all}\r\n"),
        _ => range.map_or_else(String::new, |range| format!("content-range: {range}\r\n")),
    };
    let encoding = match answer {
        Answer::Encoded(name) => format!("content-encoding: {name}\r\n"),
        _ => String::new(),
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\n{range}{encoding}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    match answer {
        Answer::Cut(most) => stream.write_all(&body[..most.min(body.len())]),
        Answer::Slow => body.chunks(1 << 10).try_for_each(|block| {
            std::thread::sleep(Duration::from_millis(10));
            stream.write_all(block)
        }),
        _ => stream.write_all(body),
    }
}

/// Returns a `.tar.gz` of files. Names are written as they are.
pub fn tgz(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = header(name, tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, &bytes[..]).unwrap();
    }
    gzip(&archive.into_inner().unwrap())
}

/// Returns a header whose name is not checked.
pub fn header(name: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    header
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a deflated `.zip` of files, by hand: the crate's writer deflates only with another feature.
pub fn zip(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut local, mut central) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let compression = flate2::Compression::fast();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), compression);
        encoder.write_all(bytes).unwrap();
        let content = encoder.finish().unwrap();
        let mut sum = flate2::Crc::new();
        sum.update(bytes);
        // Version, flags, deflated, time, date, checksum, sizes, lengths of name and extra field.
        let mut about = [20_u16, 0, 8, 0, 33].map(u16::to_le_bytes).concat();
        let sizes = [sum.sum(), content.len() as u32, bytes.len() as u32];
        about.extend(sizes.map(u32::to_le_bytes).concat());
        about.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
        let at = local.len() as u32;
        local.extend([b"PK\x03\x04", &about[..], name.as_bytes(), &content].concat());
        let more = [&[0; 10], &at.to_le_bytes()[..], name.as_bytes()].concat();
        central.extend([b"PK\x01\x02\x14\x00", &about[..], &more].concat());
    }
    let count = files.len() as u16;
    let mut end = [0, 0, count, count].map(u16::to_le_bytes).concat();
    let sizes = [central.len() as u32, local.len() as u32];
    end.extend(sizes.map(u32::to_le_bytes).concat());
    [&local[..], &central, b"PK\x05\x06", &end, &[0, 0]].concat()
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
