//! The arguments of the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::setup_args::{Device, Precision, Setup, path};
use crate::run::nodes::COLLECT;

/// Benchmarks the visual tokenizers of masked image modeling.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 110)]
pub struct Args {
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// A verb with its arguments.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Score, pretrain, probe and fine-tune every row of a suite and write the tables; the same command resumes
    Run(RunOptions),
    /// Compute the training-free metrics only, of a suite, or of a folder of images: scan, fit and count
    Score(ScoreOptions),
    /// Look at a folder of images and write a first suite for it
    Init(InitOptions),
    /// Download the images of a suite that is called after them: cifar10, cifar100, imagenette160 or tiny-imagenet
    Fetch(super::fetch_args::FetchOptions),
    /// List the stages of a suite as a graph, with what is stored and what the rest costs, for schedulers
    Plan(PlanOptions),
    /// Let a scheduler compute a suite on many machines: write its scripts, submit them, and optionally wait
    Submit(SubmitOptions),
    /// Compute one node of a submitted suite; the scripts of `submit` call this
    Node(NodeOptions),
    /// Write the tables, figures and page of a run folder again
    Report {
        /// The run folder
        #[arg(required_unless_present = "paper")]
        run: Option<PathBuf>,
        /// Which tables (default: the suite's)
        #[arg(long, value_delimiter = ',')]
        tables: Vec<u32>,
        /// Add the rows of another run to the tables: another dataset, backbone or training length (repeatable)
        #[arg(long, value_name = "RUN", value_parser = path())]
        with: Vec<PathBuf>,
        /// Draw the paper's Figures 3 and 4 from its Table 7 into this folder
        #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "tables", "with"], value_parser = path())]
        paper: Option<PathBuf>,
    },
    /// Compare a run with an older one: which metrics changed, by how much, and their standard errors; exit status 1 on a regression
    Compare(CompareOptions),
    /// Check a suite without running it
    Validate(super::validate_args::ValidateOptions),
    /// Print the JSON Schema of suite files
    Schema,
    /// List the available tokenizers, features, datasets, backbones, metrics, columns or tables, one per line
    List {
        /// What to list
        what: What,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the ids (or values) that a row gives every image as .npy
    Tokenize(TokenizeOptions),
    /// List the runs in a folder and their state, with the progress of live ones, or the nodes of a submitted run
    Runs {
        /// The folder that holds run folders, or a run folder
        #[arg(default_value = "runs")]
        folder: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure one part of a run on this machine; without a case, list the cases
    Speed(SpeedOptions),
    /// Compute the paper's toy model (section 2.2, appendices B and C) exactly, beside its printed formulas
    Theory(TheoryOptions),
    /// Report what this machine offers: ONNX engine, CUDA, threads, instruction sets, free disk, the store's file system
    Doctor {
        /// The store of finished stages [default: $TESSERA_STORE or runs/.store]
        #[arg(long, value_parser = path())]
        store: Option<PathBuf>,
        /// The folder of a dataset
        #[arg(long, value_parser = path())]
        data: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the completions of a shell: `bench completions bash > ~/.local/share/bash-completion/completions/bench`
    Completions {
        /// The shell
        shell: clap_complete::Shell,
        /// The command that they complete; the Python package is also installed as `tessera-bench`
        #[arg(long, value_parser = ["bench", "tessera-bench"], default_value = "bench")]
        name: String,
    },
    /// Write the manual pages, one per verb: `bench man DIR && man DIR/bench-run.1`
    Man {
        /// The folder to write into
        #[arg(value_parser = path())]
        folder: PathBuf,
    },
    /// List, clean up or verify the store of finished stages
    Store {
        /// The store [default: $TESSERA_STORE or runs/.store]
        #[arg(long, global = true, value_parser = path())]
        store: Option<PathBuf>,
        /// The action
        #[command(subcommand)]
        what: StoreVerb,
    },
}

/// Options of `score`.
#[derive(Debug, ClapArgs)]
pub struct ScoreOptions {
    /// Those of `run`
    #[command(flatten)]
    pub run: RunOptions,
    /// Rows for a folder of images
    #[command(flatten)]
    pub rows: FirstRows,
}

/// Options of `init`.
#[derive(Debug, ClapArgs)]
pub struct InitOptions {
    /// The folder: class folders (alone, or in train and val), .tar shards, or CIFAR's binary files
    pub folder: PathBuf,
    /// The file to write [default: NAME.yaml, with the folder's name]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub out: Option<PathBuf>,
    /// Write the recipe of training too, not as comments; images without a val split get one
    #[arg(long)]
    pub train: bool,
    /// Its rows
    #[command(flatten)]
    pub rows: FirstRows,
}

/// Tokenizers for a folder of images.
#[derive(Debug, ClapArgs)]
pub struct FirstRows {
    /// For a folder of images: K-means of these features [default: pixel,hog]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub kmeans: Vec<FeatureName>,
    /// For a folder of images: numbers of clusters [default: 50,100]
    #[arg(long, value_delimiter = ',')]
    pub k: Vec<usize>,
}

/// Features without fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FeatureName {
    /// Pixels
    #[value(alias = "pixels")]
    Pixel,
    /// Histograms of oriented gradients
    Hog,
}

/// Options of `run` and `score`.
#[derive(Debug, ClapArgs)]
pub struct RunOptions {
    /// What is computed, and where
    #[command(flatten)]
    pub setup: Setup,
    /// The run folder [default: runs/NAME]
    #[arg(long, value_parser = path())]
    pub out: Option<PathBuf>,
    /// Loader threads that decode, augment and tokenize the images of the next training steps, like PyTorch's `num_workers`; with 0
    /// each training thread does this for its own shard [default: 0 on a CPU, the number of threads on a GPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Seconds between checkpoints of a training stage
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub checkpoint_every: f64,
    /// Print what is stored and what the rest costs on this machine in time, memory and disk; compute nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: print JSON
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Compute only this node of `bench plan`, for a scheduler; exit status 3 if it waits for another node. Only `collect`, which is
    /// --collect, writes the run folder
    #[arg(long, value_name = "ID", conflicts_with_all = ["dry_run", "out"])]
    pub node: Option<String>,
    /// Compute on the images with this fingerprint, which `bench plan --json` prints: read their stored scan in place of scanning the
    /// folder; every image is compared with its digest when it is read
    #[arg(long, value_name = "FINGERPRINT")]
    pub scan: Option<String>,
    /// Compute nothing; write the run folder from the store and its records of failures; exit status 3 if results are missing
    #[arg(long, conflicts_with_all = ["dry_run", "node"])]
    pub collect: bool,
    /// Whether `collect` waits for results that a cache of names may hide
    #[arg(skip)]
    pub awaits: bool,
}

impl RunOptions {
    /// Returns whether the results are only collected: `--node collect` is the last node of a plan.
    pub fn collects(&self) -> bool {
        self.collect || self.node.as_deref() == Some(COLLECT)
    }
}

/// Options of `plan`.
#[derive(Debug, ClapArgs)]
pub struct PlanOptions {
    /// What is computed, and where
    #[command(flatten)]
    pub setup: Setup,
    /// Print JSON for schedulers
    #[arg(long)]
    pub json: bool,
    /// Print a picture of the graph for Graphviz's `dot`
    #[arg(long, conflicts_with = "json")]
    pub graphviz: bool,
}

/// Options of `submit`.
#[derive(Debug, ClapArgs)]
pub struct SubmitOptions {
    /// What is computed, and where
    #[command(flatten)]
    pub setup: Setup,
    /// The scheduler
    #[arg(long, value_enum)]
    pub to: To,
    /// The run folder [default: runs/NAME]
    #[arg(long, value_parser = path())]
    pub out: Option<PathBuf>,
    /// As for `run`
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Seconds between checkpoints of a training stage
    #[arg(long, value_name = "SECONDS")]
    pub checkpoint_every: Option<f64>,
    /// Write the scripts and print the commands that would submit them
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until all jobs have ended; the exit status is then that of `run`
    #[arg(long)]
    pub wait: bool,
    /// The program that computes the nodes, under a path that all machines have: one with CUDA, for instance, if this one has none
    /// [default: this program]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub program: Option<PathBuf>,
    /// Resources of each job: options of sbatch, such as `--partition=gpu --time=8:00:00`, or of HyperQueue, such as `cpus=8`
    #[arg(last = true)]
    pub options: Vec<String>,
}

/// Options of `node`.
#[derive(Debug, ClapArgs)]
pub struct NodeOptions {
    /// The run folder that `submit` has prepared
    pub run: PathBuf,
    /// The node, by its index in RUN/submit/plan.json
    pub index: usize,
    /// End with status 0 also if the node fails or waits, for schedulers that otherwise never start `collect`
    #[arg(long)]
    pub exit_zero: bool,
}

/// A scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// Slurm
    Slurm,
    /// HyperQueue
    Hq,
}

/// Options of `compare`.
#[derive(Debug, ClapArgs)]
pub struct CompareOptions {
    /// The older run: its folder, or its results.csv (with metrics.csv beside it)
    pub old: PathBuf,
    /// The newer run
    pub new: PathBuf,
    /// Smallest change that counts, in each metric's unit; or NAME=VALUE for one metric (repeatable)
    #[arg(long, value_name = "[NAME=]VALUE")]
    pub tolerance: Vec<String>,
    /// Let only this metric decide (repeatable; any column of results.csv, also one without a direction)
    #[arg(long, value_name = "NAME")]
    pub gate: Vec<String>,
    /// Write the comparison as Markdown, for a pull request
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub markdown: Option<PathBuf>,
    /// Show also what stayed within its error, and seconds
    #[arg(long)]
    pub all: bool,
    /// Print JSON: verdict, changes, and what is not comparable
    #[arg(long)]
    pub json: bool,
    /// Compare runs of different datasets, class lists or recipes
    #[arg(long)]
    pub force: bool,
}

/// Options of `tokenize`.
#[derive(Debug, ClapArgs)]
pub struct TokenizeOptions {
    /// Those of `run`; `--only` selects the row
    #[command(flatten)]
    pub setup: Setup,
    /// The split
    #[arg(long, value_enum)]
    pub split: SplitName,
    /// The .npy file to write
    #[arg(long, value_parser = path())]
    pub out: PathBuf,
}

/// Options of `speed`.
#[derive(Debug, ClapArgs)]
pub struct SpeedOptions {
    /// pretrain, gemm, kmeans, hog, decode, count or tokenize
    pub case: Option<String>,
    /// The size of the case [default: its first]
    #[arg(long)]
    pub preset: Option<String>,
    /// Images per step, for pretrain and its gemm
    #[arg(long)]
    pub batch: Option<usize>,
    /// Threads to use [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// The device to compute on, for pretrain, kmeans, hog, count and the gemm of kmeans
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Type of matrix products, for pretrain and its gemm
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub precision: Precision,
    /// Type of the residual stream of pretrain in bf16 on a GPU [default: bf16]
    #[arg(long, value_enum)]
    pub residual_stream: Option<Precision>,
    /// A folder of class folders of images, for decode and tokenize
    #[arg(long, value_parser = path())]
    pub data: Option<PathBuf>,
    /// Count what a step of pretrain in bf16 asks of a GPU, without one; with --device cuda, count and time it on the GPU
    #[arg(long, conflicts_with_all = ["precision", "threads", "data"])]
    pub ledger: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `theory`.
#[derive(Debug, ClapArgs)]
pub struct TheoryOptions {
    /// Classes, s
    #[arg(long, default_value_t = 2)]
    pub classes: usize,
    /// Points of a class, n
    #[arg(long, default_value_t = 200)]
    pub points: u64,
    /// Points that every two classes share, m
    #[arg(long, default_value_t = 10)]
    pub overlap: u64,
    /// Tokens of the cross-class tokenization
    #[arg(long, default_value_t = 2)]
    pub tokens: u64,
    /// A tokenization of your own, "190,0,5; 0,190,5": tokens with their points in P1 only, P2 only, ..., P1 and P2, P1 and P3, ...
    #[arg(long, value_name = "TOKENS")]
    pub partition: Option<String>,
    /// Also write theory.csv, printed.csv and a figure like the paper's Figure 2 into this folder
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub out: Option<PathBuf>,
}

/// A split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// The train split
    Train,
    /// The validation split
    Val,
}

/// What `list` can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Kinds of tokenizers
    Tokenizers,
    /// Kinds of features
    Features,
    /// Kinds of datasets
    Datasets,
    /// Sizes of models
    Backbones,
    /// Training-free metrics
    Metrics,
    /// Columns of results.csv, metrics.csv and the other CSV files of a run
    Columns,
    /// Tables of the report
    Tables,
}

/// Actions on the store.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// List the finished stages
    Ls,
    /// Remove old entries, old resume state and temporary files of killed processes
    Gc {
        /// Keep entries and resume state younger than this many days
        #[arg(long, default_value_t = 30.0)]
        keep_days: f64,
        /// Print what would be removed; remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Read every file of finished stages, and resume state, and compare it with its digest; exit status 1 if one is damaged or unreadable
    Verify,
}
