//! A child process that answers a frame with a frame (`PROTOCOL.md`).
//!
//! A thread writes requests, one reads replies and one reads standard error, so that no full pipe can block both processes. The pipes are
//! closed when this process ends, however it ends, and a child ends when its standard input does.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::iter;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Bytes before an array: its length.
pub const LENGTH: usize = 8;
/// First bytes of a `.npy` file.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Time in which a child may end by itself after its input has ended.
const GRACE: Duration = Duration::from_secs(2);
/// Time between two looks at a process, or at an interruption.
const TICK: Duration = Duration::from_millis(20);
/// Longest time between two looks that counts; a longer one is that of a suspended process.
const AWAKE: Duration = Duration::from_secs(1);
/// Lines of standard error that an error shows.
const LINES: usize = 8;
/// Bytes of a line, and of wrong output, that an error shows.
const SHOWN: usize = 300;

/// How to start a child.
#[derive(Clone, Debug)]
pub struct Start {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    /// The folder in which it runs.
    pub folder: PathBuf,
    /// Time for each reply.
    pub limit: Duration,
    /// Maximum bytes of a reply.
    pub most: usize,
}

/// Why a child gives no reply.
#[derive(Debug)]
pub enum Fault {
    /// The user interrupted.
    Interrupted,
    /// What was found, with the last lines of standard error.
    Failed(String),
}

/// A started child. Dropping it ends the process and those that it started.
pub struct Child {
    process: std::process::Child,
    limit: Duration,
    requests: Option<Sender<Vec<u8>>>,
    said: Receiver<Said>,
    errors: Arc<Mutex<VecDeque<Vec<u8>>>>,
    /// Is disconnected when standard error has ended.
    errors_ended: Receiver<()>,
    /// Requests without a reply.
    open: usize,
    /// The first failure.
    failed: Option<String>,
    /// How the process ended, after it was waited for.
    ended: Option<ExitStatus>,
}

/// What a child said.
enum Said {
    /// A reply.
    Frame(Vec<u8>),
    /// Its standard output ended after these bytes.
    Ended(Vec<u8>),
    /// These bytes, which begin no frame.
    Other(Vec<u8>),
    /// A frame of so many bytes, which is too long.
    TooLong(u64),
    /// It does not read its standard input.
    Deaf,
}

impl Child {
    /// Starts the program.
    ///
    /// # Errors
    /// If the system cannot start it.
    pub fn start(start: &Start) -> io::Result<Self> {
        let (program, arguments) = match start.words.split_first() {
            Some(words) => words,
            None => return Err(io::Error::other("no program is named")),
        };
        // A group of its own: a signal of the terminal ends this process after the current step, and would end the child before it.
        let mut process = Command::new(program)
            .args(arguments)
            .current_dir(&start.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (Some(input), Some(output), Some(error)) = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        ) else {
            return Err(io::Error::other("the pipes are missing"));
        };
        let (requests, written) = mpsc::channel();
        let (says, said) = mpsc::channel();
        let deaf = says.clone();
        thread::spawn(move || write(input, &written, &deaf));
        let most = start.most as u64;
        thread::spawn(move || read(BufReader::new(output), most, &says));
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let (end, errors_ended) = mpsc::channel();
        let lines = Arc::clone(&errors);
        thread::spawn(move || keep_lines(BufReader::new(error), &lines, end));
        Ok(Self {
            process,
            limit: start.limit,
            requests: Some(requests),
            said,
            errors,
            errors_ended,
            open: 0,
            failed: None,
            ended: None,
        })
    }

    /// Sends a frame. Its reply follows those of the frames before it.
    ///
    /// # Errors
    /// [`Fault::Failed`]; a child that failed once gives the same failure again.
    pub fn send(&mut self, frame: Vec<u8>) -> Result<(), Fault> {
        if let Some(failed) = &self.failed {
            return Err(Fault::Failed(failed.clone()));
        }
        if self.open == 0 {
            match self.said.try_recv() {
                Ok(Said::Frame(_)) => return Err(self.fail("wrote a second reply to one request")),
                // Said before the request.
                Ok(other) => return Err(self.explain(&other)),
                Err(_) => {}
            }
        }
        self.open += 1;
        if let Some(requests) = &self.requests {
            // A writer that has ended has said so.
            let _ = requests.send(frame);
        }
        Ok(())
    }

    /// Waits for the next reply and returns its array, without its length.
    ///
    /// # Errors
    /// [`Fault`]; the child has then ended.
    pub fn receive(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Vec<u8>, Fault> {
        let (mut waited, mut last) = (Duration::ZERO, Instant::now());
        loop {
            let said = self.said.recv_timeout(TICK);
            // A queue may suspend this process and the child for hours.
            waited += last.elapsed().min(AWAKE);
            last = Instant::now();
            match said {
                Ok(Said::Frame(reply)) => {
                    self.open = self.open.saturating_sub(1);
                    return Ok(reply);
                }
                Ok(other) => return Err(self.explain(&other)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.explain(&Said::Ended(Vec::new())));
                }
                Err(RecvTimeoutError::Timeout) if interrupted() => {
                    self.end(Duration::ZERO);
                    return Err(Fault::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) if waited >= self.limit => {
                    return Err(self.time_out());
                }
                Err(RecvTimeoutError::Timeout) if self.is_over() => return self.last(),
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }

    /// Returns the reply that a child wrote before it ended by itself. Processes that it started may still hold its pipes, whose end would
    /// not come before theirs.
    fn last(&mut self) -> Result<Vec<u8>, Fault> {
        self.end(Duration::ZERO);
        match self.said.recv_timeout(GRACE) {
            Ok(Said::Frame(reply)) => {
                self.open = self.open.saturating_sub(1);
                Ok(reply)
            }
            Ok(other) => Err(self.explain(&other)),
            Err(_) => Err(self.explain(&Said::Ended(Vec::new()))),
        }
    }

    /// Returns whether the process has ended. It is not waited for, so its number still names its group.
    fn is_over(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let found = waitid(WaitId::Pid(Pid::from_child(&self.process)), look);
        self.ended.is_some() || !matches!(found, Ok(None))
    }

    /// Ends a child whose time is up. What it has written may explain why.
    fn time_out(&mut self) -> Fault {
        let seconds = self.limit.as_secs_f64();
        self.end(Duration::ZERO);
        let began = match self.said.recv_timeout(GRACE) {
            Ok(Said::Ended(began)) if !began.is_empty() => {
                format!(" but {}, which is no frame", shown(&began))
            }
            _ => String::new(),
        };
        self.fail(&format!(
            "gave no reply within {seconds} s (`timeout`){began}"
        ))
    }

    fn explain(&mut self, said: &Said) -> Fault {
        let what = match said {
            Said::Frame(_) => "wrote a reply without a request".to_owned(),
            Said::Other(bytes) => format!(
                "wrote {} to standard output, expected only replies there; print to standard error",
                shown(bytes)
            ),
            Said::TooLong(bytes) => {
                format!("began a reply of {bytes} bytes, more than any right reply has")
            }
            Said::Deaf | Said::Ended(_) => {
                let how = match self.end(GRACE) {
                    Some(status) => format!("ended ({status})"),
                    None => "closed its standard input or output".to_owned(),
                };
                match said {
                    Said::Ended(began) if !began.is_empty() => {
                        format!("{how} after {} bytes of a reply", began.len())
                    }
                    _ => format!("{how} instead of replying"),
                }
            }
        };
        self.fail(&what)
    }

    /// Ends the child and returns what is wrong, with the last lines of standard error.
    pub fn fail(&mut self, what: &str) -> Fault {
        self.end(Duration::ZERO);
        let _ = self.errors_ended.recv_timeout(GRACE);
        let lines = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> = lines.iter().map(|line| plain(line)).collect();
        let said = match lines.is_empty() {
            true => "it wrote nothing to standard error".to_owned(),
            false => format!("standard error ends with: {}", lines.join(" | ")),
        };
        let message = format!("the program {what}; {said}");
        self.failed = Some(message.clone());
        Fault::Failed(message)
    }

    /// Closes the child's input, waits, and ends it and the processes of its group. Returns its status if it ended by itself.
    fn end(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.requests = None;
        if let Some(status) = self.ended {
            return Some(status);
        }
        let start = Instant::now();
        while !self.is_over() && start.elapsed() < grace {
            thread::sleep(TICK);
        }
        let by_itself = self.is_over();
        // Processes that it started may have outlived it.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        self.ended = self.process.wait().ok();
        self.ended.filter(|_| by_itself)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end(GRACE);
    }
}

/// Writes requests until there are no more, then closes the pipe.
fn write(mut input: impl Write, requests: &Receiver<Vec<u8>>, deaf: &Sender<Said>) {
    for frame in requests {
        if input
            .write_all(&frame)
            .and_then(|()| input.flush())
            .is_err()
        {
            let _ = deaf.send(Said::Deaf);
            return;
        }
    }
}

/// Returns the arrays of the frames with which `output` begins, each of at most `most` bytes.
pub fn arrays(output: &[u8], most: usize) -> Vec<Vec<u8>> {
    let mut output = BufReader::new(output);
    let next = || match reply(&mut output, most as u64) {
        Said::Frame(array) => Some(array),
        _ => None,
    };
    iter::from_fn(next).collect()
}

/// Reads replies until something else comes.
fn read(mut output: BufReader<impl Read>, most: u64, says: &Sender<Said>) {
    loop {
        let said = reply(&mut output, most);
        let ends = !matches!(said, Said::Frame(_));
        if says.send(said).is_err() || ends {
            return;
        }
    }
}

fn reply(output: &mut BufReader<impl Read>, most: u64) -> Said {
    let mut first = Vec::new();
    let wanted = LENGTH + MAGIC.len();
    let found = output.by_ref().take(wanted as u64).read_to_end(&mut first);
    if found.is_err() || first.len() < wanted {
        return Said::Ended(first);
    }
    let length = u64::from_le_bytes(std::array::from_fn(|at| first[at]));
    let magic = first.split_off(LENGTH);
    if magic != MAGIC {
        return Said::Other([&first, &magic, output.buffer()].concat());
    }
    let Some(left) = length
        .checked_sub(MAGIC.len() as u64)
        .filter(|_| length <= most)
    else {
        return Said::TooLong(length);
    };
    let mut array = magic;
    array.reserve_exact(left as usize);
    match output.by_ref().take(left).read_to_end(&mut array) {
        Ok(read) if read as u64 == left => Said::Frame(array),
        _ => Said::Ended(array),
    }
}

/// Keeps the last lines of standard error. `end` is dropped at its end.
fn keep_lines(mut error: impl BufRead, lines: &Mutex<VecDeque<Vec<u8>>>, end: Sender<()>) {
    loop {
        let mut line = Vec::new();
        let read = error.by_ref().take(1 << 12).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            drop(end);
            return;
        }
        line.truncate(SHOWN);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Returns a line without control characters, which a terminal would obey.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.trim_end().chars().map(visible).collect()
}

/// Returns the beginning of wrong output in quotes.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was lost, and the call waited for its whole limit.
    #[test]
    fn what_a_child_says_before_a_request_counts() {
        let script = "echo a long line of text; cat > /dev/null";
        let mut child = Child::start(&Start {
            words: ["sh", "-c", script].map(OsString::from).to_vec(),
            folder: std::env::temp_dir(),
            limit: Duration::from_secs(600),
            most: 1 << 10,
        })
        .unwrap();
        // Until the reader has seen it.
        let early = child.said.recv_timeout(Duration::from_secs(60)).unwrap();
        let (says, said) = mpsc::channel();
        says.send(early).unwrap();
        child.said = said;
        let fault = child.send(vec![0; 8]);
        assert!(matches!(fault, Err(Fault::Failed(why)) if why.contains("a long line of text")));
    }

    /// Helpers of a program that crashed would keep its memory.
    #[test]
    fn processes_that_outlive_their_program_end_too() {
        // The second helper holds all pipes, as a forked process does: their end does not come, and requests can be written.
        for helper in ["sleep 600 &", "exec 3<&0; sleep 600 <&3 &"] {
            let folder = tempfile::tempdir().unwrap();
            let script = format!("{helper} echo $! > helper; exit 3");
            let mut child = Child::start(&Start {
                words: ["sh", "-c", &script].map(OsString::from).to_vec(),
                folder: folder.path().to_owned(),
                limit: Duration::from_secs(600),
                most: 1 << 10,
            })
            .unwrap();
            while !child.is_over() {
                thread::sleep(TICK);
            }
            let fault = child
                .send(vec![0; 8])
                .and_then(|()| child.receive(&|| false).map(drop));
            assert!(matches!(fault, Err(Fault::Failed(why)) if why.contains("exit status: 3")));
            let helper = std::fs::read_to_string(folder.path().join("helper")).unwrap();
            let helper = Pid::from_raw(helper.trim().parse().unwrap()).unwrap();
            let start = Instant::now();
            while rustix::process::test_kill_process(helper).is_ok() && start.elapsed() < GRACE {
                thread::sleep(TICK);
            }
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.as_raw_nonzero()));
            let runs = stat.is_ok_and(|stat| !stat.contains(") Z "));
            assert!(!runs, "the helper runs");
        }
    }
}
