//! Downloads a file over HTTP and resumes it where it stopped.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use ureq::http::{HeaderMap, Response, header};
use ureq::{Agent, Body};

use tessera_models::files;

use super::archive::Archive;
use super::watch::{Watch, unwritten};

/// Time without a byte after which a connection counts as broken.
const STALL: Duration = Duration::from_secs(60);
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(30);
/// Maximum bytes of an archive whose size nobody names.
const MOST: u64 = 1 << 32;
/// Attempts in a row that bring no byte.
const TRIES: u32 = 3;
/// Pause after an attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an attempt ended early.
enum Fault {
    /// Another attempt may succeed.
    Passing(String),
    /// Another attempt would end in the same way.
    Lasting(anyhow::Error),
}

impl Fault {
    fn passing(error: impl ToString) -> Self {
        Self::Passing(error.to_string())
    }
}

/// Downloads the archive into the file `part`, after the bytes that it has.
///
/// # Errors
/// If the server refuses or breaks off again and again, or if the file cannot be written. The bytes that came stay.
pub fn download(archive: &Archive, part: &Path, watch: Watch<'_>) -> anyhow::Result<()> {
    let downloaded = attempts(archive, part, watch);
    let is_empty = || part.metadata().is_ok_and(|about| about.len() == 0);
    if downloaded.is_err() && is_empty() {
        let _ = std::fs::remove_file(part);
    }
    downloaded
}

/// Asks until the file is whole, or an attempt cannot be followed by another.
fn attempts(archive: &Archive, part: &Path, watch: Watch<'_>) -> anyhow::Result<()> {
    let mut options = File::options();
    let opened = options.create(true).truncate(false).read(true).write(true);
    let file = files::check_place(part).and_then(|()| opened.open(part));
    let file = file.map_err(|e| unwritten(part, &e))?;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(STALL));
    let mut download = Download {
        agent: Agent::new_with_config(config.build()),
        archive,
        part,
        file,
        watch,
    };
    let url = &archive.from;
    let mut tries = 0;
    loop {
        let before = download.length()?;
        let Err(fault) = download.attempt(before) else {
            return download.file.sync_all().map_err(|e| unwritten(part, &e));
        };
        let reason = match fault {
            Fault::Lasting(error) => return Err(error),
            Fault::Passing(reason) => reason,
        };
        tries = if download.length()? > before {
            1
        } else {
            tries + 1
        };
        if tries == TRIES {
            bail!(
                "{url}: {reason}; the same command goes on after the {:.1} MB in {}; or download the archive elsewhere and name the file \
                 with --from",
                download.length()? as f64 / 1e6,
                part.display()
            );
        }
        watch.tell(&format!("{url}: {reason}; trying again"));
        std::thread::sleep(PAUSE * 2_u32.pow(tries - 1));
    }
}

struct Download<'a> {
    agent: Agent,
    archive: &'a Archive,
    part: &'a Path,
    file: File,
    watch: Watch<'a>,
}

impl Download<'_> {
    fn length(&self) -> anyhow::Result<u64> {
        let about = self.file.metadata();
        Ok(about.map_err(|e| unwritten(self.part, &e))?.len())
    }

    /// Asks for the bytes after the first `have`.
    fn attempt(&mut self, have: u64) -> Result<(), Fault> {
        self.watch.check().map_err(Fault::Lasting)?;
        match self.archive.bytes {
            Some(all) if have == all => return Ok(()),
            Some(all) if have > all => return self.restart("the part is longer than the archive"),
            _ => {}
        }
        let url = &self.archive.from;
        // A compressed transfer has other offsets.
        let mut request = self
            .agent
            .get(url)
            .header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = request.call().map_err(Fault::passing)?;
        let range = range(response.headers());
        let status = response.status().as_u16();
        if matches!(status, 200 | 206) {
            plain(url, response.headers())?;
        }
        match (status, range) {
            (206, Some((Some(start), all))) if start == have => {
                self.expect(all)?;
                self.receive(response, have, all)
            }
            (206, _) => self.restart("the server sent another range"),
            (200, _) => {
                let all = length(response.headers());
                self.expect(all)?;
                self.cut()?;
                self.receive(response, 0, all)
            }
            // The whole file is there; only its size was unknown.
            (416, Some((None, Some(all)))) if all == have => Ok(()),
            (416, _) => self.restart("the server has no such range"),
            (408 | 429 | 500.., _) => Err(Fault::passing(response.status())),
            _ => Err(Fault::Lasting(anyhow!(
                "{url}: {}; name another address or a file with --from",
                response.status()
            ))),
        }
    }

    /// Refuses a file of another size than the archive's, before anything that is here is removed.
    fn expect(&self, all: Option<u64>) -> Result<(), Fault> {
        let Archive { from, bytes, .. } = self.archive;
        match (all, *bytes) {
            (Some(found), Some(expected)) if found != expected => Err(Fault::Lasting(anyhow!(
                "{from}: found {found} bytes, expected {expected}; the server has another file; name another address or a file with --from"
            ))),
            _ => Ok(()),
        }
    }

    /// Appends the body after the first `have` bytes; `all` is the size of the file, if the server names it.
    fn receive(
        &mut self,
        response: Response<Body>,
        have: u64,
        all: Option<u64>,
    ) -> Result<(), Fault> {
        let Archive { from, bytes, .. } = self.archive;
        let all = bytes.or(all);
        let note = format!("downloading {from}");
        let body = response.into_body().into_with_config();
        let mut body = body.limit(u64::MAX).reader();
        let mut at = have;
        let seeked = self.file.seek(SeekFrom::Start(have));
        seeked.map_err(|e| Fault::Lasting(unwritten(self.part, &e)))?;
        let mut block = vec![0; 1 << 16];
        loop {
            self.watch.check().map_err(Fault::Lasting)?;
            let count = match body.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(Fault::passing)?,
            };
            if count == 0 {
                break;
            }
            let written = self.file.write_all(&block[..count]);
            written.map_err(|e| Fault::Lasting(unwritten(self.part, &e)))?;
            at += count as u64;
            if at > all.unwrap_or(MOST) {
                let message = "sends more bytes than the archive has; name another address";
                return Err(Fault::Lasting(anyhow!("{from}: {message} with --from")));
            }
            if let Some(all) = all {
                (self.watch.progress)(at as usize, all as usize, &note);
            }
        }
        match all {
            Some(all) if at < all => Err(Fault::Passing(format!(
                "the connection ended after {at} of {all} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// Forgets what is there.
    fn restart(&mut self, reason: &str) -> Result<(), Fault> {
        self.cut()?;
        Err(Fault::Passing(format!("{reason}; it starts again")))
    }

    fn cut(&mut self) -> Result<(), Fault> {
        let cut = self.file.set_len(0);
        cut.map_err(|e| Fault::Lasting(unwritten(self.part, &e)))
    }
}

/// Refuses a body that is encoded on the way, whose offsets are not those of the file. `ureq` decodes gzip and then removes both headers.
fn plain(url: &str, headers: &HeaderMap) -> Result<(), Fault> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    let found = match (encoding, length(headers)) {
        (Some(found), _) if found.as_bytes() != b"identity" => {
            format!("Content-Encoding {found:?}")
        }
        (_, None) => "Content-Encoding gzip or no Content-Length".to_owned(),
        _ => return Ok(()),
    };
    Err(Fault::Lasting(anyhow!(
        "{url}: found {found}, expected the file as it is, with its length; name another address or a file with --from"
    )))
}

/// Reads `Content-Range: bytes START-END/ALL`, where START and ALL may be unknown.
fn range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, all) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split('-').next()?;
    Some((start.parse().ok(), all.parse().ok()))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok()
}
