//! Operations as a CUDA graph, which one call of the driver starts.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode,
};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, DriverError, result};

use super::gpu::driver;
use crate::device::launcher::{Combined, DeviceError, Result};

/// What failed, for messages.
pub(super) const RECORDING: &str = "recording a CUDA graph (without TESSERA_CUDA_GRAPH, none is)";

/// A graph and the stream on which it runs.
pub(super) struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    /// Name of the device.
    name: String,
}

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: the driver accepts a graph from any thread, one at a time. `Graph` is not `Sync`.
unsafe impl Send for Graph {}

/// Begins to record what is started on a new stream. Nothing is computed. No other thread knows the stream, so nothing else is recorded, and
/// whatever this thread does beside it is allowed.
pub(super) fn begin(stream: &CudaStream) -> std::result::Result<Arc<CudaStream>, DriverError> {
    let recording = stream.context().new_stream()?;
    recording.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
    Ok(recording)
}

/// Ends a recording; `None` if it is empty.
pub(super) fn end(
    recording: &Arc<CudaStream>,
    stream: &Arc<CudaStream>,
    name: &str,
) -> std::result::Result<Option<Graph>, DriverError> {
    // Otherwise `end_capture` returns an error of an earlier call and does not end the recording.
    let earlier = recording.context().check_err();
    let graph = recording.end_capture(Flags(0));
    let graph = earlier.and(graph)?;
    Ok(graph.map(|graph| Graph {
        graph,
        stream: stream.clone(),
        name: name.to_owned(),
    }))
}

impl Combined for Graph {
    #[expect(unsafe_code, reason = "calls the driver")]
    fn start(&self) -> Result<()> {
        let bound = self.stream.context().bind_to_thread();
        let (graph, stream) = (self.graph.cu_graph_exec(), self.stream.cu_stream());
        // SAFETY: the graph and the stream exist; who combined the operations vouches for their memory.
        let started = bound.and_then(|()| unsafe { result::graph::launch(graph, stream) });
        started.map_err(|error| DeviceError::Refused {
            device: self.name.clone(),
            message: driver("starting a CUDA graph")(error).to_string(),
        })
    }
}
