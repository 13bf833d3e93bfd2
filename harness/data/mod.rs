//! Datasets: what images there are, in which order, with which labels, and their pixels on demand.

pub mod mosaics;
