// A CUDA driver without a GPU, and the parts of cuBLASLt, cuBLAS, cuRAND and the runtime that a program with `--features cuda` calls. It shows
// whether the program's calls are in order where no GPU is. Memory is host memory and copies are made; kernels and products compute nothing, so
// no result means anything. It counts calls, and reports an error for a copy, free or product of memory that it does not know, also when a graph
// repeats one, a wait for a stream that records a graph, a call without a context, and an impossible grid. It does not know which memory a
// kernel uses. After an error the exit status is 3. `driver.sh` beside it builds and uses it.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
typedef uint64_t Address;
enum Kind { LAUNCH, PRODUCT, COPY, ALLOCATION, FREE, KINDS };
static const char *const NAMES[KINDS] = {"launches", "products", "copies", "allocations", "frees"};

struct Node { enum Kind kind; Address to, from; size_t bytes; Address also[3]; };
struct Graph { struct Node *nodes; int count; };
struct Stream { int recording; struct Graph *graph; };
struct Block { Address at; size_t bytes; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct Stream streams[256];
static int opened = 1;  // the first is the default stream
static struct Block *blocks;
static int held;
static size_t bytes_held, bytes_most;
static long direct[KINDS], recorded[KINDS], graphs, replays, errors;
static __thread void *context;

static void line(const char *what, const long *counts) {
  fprintf(stderr, "DRIVER %s:", what);
  for (int kind = 0; kind < KINDS; kind++) fprintf(stderr, " %ld %s", counts[kind], NAMES[kind]);
  fputc('\n', stderr);
}

static void report(void) {
  line("direct", direct);
  line("recorded", recorded);
  fprintf(stderr, "DRIVER %ld graphs, started %ld times; at most %.1f MB, %.1f MB never freed; %ld ERRORS\n", graphs, replays, bytes_most / 1e6,
          bytes_held / 1e6, errors);
  if (errors) {
    fflush(NULL);
    _exit(3);
  }
}

static Result fail(const char *what) {
  errors++;
  fprintf(stderr, "DRIVER ERROR: %s\n", what);
  return 1;
}

static struct Stream *stream_of(void *handle) {
  struct Stream *stream = handle;
  return stream >= streams && stream < streams + 256 ? stream : streams;
}

static int known(Address at, size_t bytes) {
  for (int i = held; i--;)
    if (at >= blocks[i].at && at + bytes <= blocks[i].at + blocks[i].bytes) return 1;
  return 0;
}

static Result allocate(Address *at, size_t bytes) {
  void *memory;
  if (posix_memalign(&memory, 512, bytes ? bytes : 1)) return 2;
  memset(memory, 0, bytes);
  blocks = realloc(blocks, sizeof *blocks * (held + 1));
  blocks[held++] = (struct Block){*at = (Address)memory, bytes};
  if ((bytes_held += bytes) > bytes_most) bytes_most = bytes_held;
  return 0;
}

static Result release(Address at) {
  for (int i = held; i--;)
    if (blocks[i].at == at) {
      bytes_held -= blocks[i].bytes;
      free((void *)at);
      blocks[i] = blocks[--held];
      return 0;
    }
  return fail("free of unknown memory");
}

static Result copy(Address to, Address from, size_t bytes) {
  if (!known(to, bytes) || !known(from, bytes)) return fail("copy of unknown memory");
  memmove((void *)to, (void *)from, bytes);
  return 0;
}

static Result multiply(struct Node node) {
  int all = known(node.to, 1) && known(node.from, node.bytes);
  for (int i = 0; i < 3; i++) all &= known(node.also[i], 1);
  return all ? 0 : fail("a product of unknown memory");
}

// Makes a call on a stream, or records it. The lock is held.
static Result call(void *handle, struct Node node) {
  struct Stream *stream = stream_of(handle);
  if (!context) return fail("no context on this thread");
  if (stream->recording) {
    struct Graph *graph = stream->graph;
    if (node.kind == FREE) {
      int own = 0;
      for (int i = 0; i < graph->count; i++) own |= graph->nodes[i].kind == ALLOCATION && graph->nodes[i].to == node.to;
      if (!own) return fail("a graph frees memory that it did not allocate");
    }
    graph->nodes = realloc(graph->nodes, sizeof node * (graph->count + 1));
    graph->nodes[graph->count++] = node;
    recorded[node.kind]++;
    return 0;
  }
  direct[node.kind]++;
  if (node.kind == COPY) return copy(node.to, node.from, node.bytes);
  if (node.kind == PRODUCT) return multiply(node);
  return node.kind == FREE ? release(node.to) : 0;
}

#define LOCKED(value) ({ pthread_mutex_lock(&lock); Result result = (value); pthread_mutex_unlock(&lock); result; })

// ---- the driver: device and context

Result cuInit(unsigned flags) {
  static int once;
  if (!once++) atexit(report);
  return 0;
}
Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
Result cuDeviceGet(int *device, int index) { return *device = index, 0; }
Result cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "no GPU, a driver for tests"), 0; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
  const char *gb = getenv("DRIVER_GB");
  return *bytes = (gb ? atof(gb) : 16) * 1e9, 0;
}
Result cuDeviceGetAttribute(int *value, int which, int device) {
  switch (which) {
    case 75: *value = 9; break;        // compute capability, major
    case 76: *value = 0; break;        // and minor
    case 97: *value = 232448; break;   // shared memory of a block that opts in
    case 115: *value = 1; break;       // memory pools
    default: *value = 1024;
  }
  return 0;
}
Result cuDevicePrimaryCtxRetain(void **to, int device) { return *to = (void *)1, 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
Result cuCtxDestroy_v2(void *of) { return 0; }
Result cuCtxGetCurrent(void **to) { return *to = context, 0; }
Result cuCtxSetCurrent(void *to) { return context = to, 0; }
Result cuCtxSetFlags(unsigned flags) { return 0; }
Result cuCtxGetStreamPriorityRange(int *least, int *most) { return *least = 0, *most = -5, 0; }
Result cuCtxSynchronize(void) { return 0; }
Result cuGetErrorString(Result code, const char **text) { return *text = "error", 0; }
Result cuGetErrorName(Result code, const char **text) { return *text = "error", 0; }

// ---- the driver: memory

Result cuDeviceGetDefaultMemPool(void **pool, int device) { return *pool = (void *)1, 0; }
Result cuMemPoolGetAttribute(void *pool, int which, uint64_t *value) { return *value = 0, 0; }
Result cuMemPoolSetAttribute(void *pool, int which, void *value) { return 0; }
Result cuMemGetInfo_v2(size_t *unused, size_t *all) { return cuDeviceTotalMem_v2(all, 0), *unused = *all - bytes_held, 0; }
Result cuMemAlloc_v2(Address *at, size_t bytes) { return LOCKED(allocate(at, bytes)); }
Result cuMemFree_v2(Address at) { return LOCKED(release(at)); }
Result cuMemAllocAsync(Address *at, size_t bytes, void *stream) {
  return LOCKED(allocate(at, bytes) || call(stream, (struct Node){ALLOCATION, *at, 0, bytes}));
}
Result cuMemFreeAsync(Address at, void *stream) { return LOCKED(call(stream, (struct Node){FREE, at, 0, 0})); }
Result cuMemHostAlloc(void **at, size_t bytes, unsigned flags) { return posix_memalign(at, 4096, bytes) ? 2 : 0; }
Result cuMemFreeHost(void *at) { return free(at), 0; }
static Result host(void *stream, Address device, void *to, const void *from, size_t bytes) {
  if (!context) return fail("no context on this thread");
  if (stream_of(stream)->recording) return fail("a copy from or to the host in a graph");
  if (!known(device, bytes)) return fail("a copy from or to unknown memory");
  return memcpy(to, from, bytes), 0;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) { return LOCKED(host(stream, to, (void *)to, from, bytes)); }
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) { return LOCKED(host(stream, from, to, (void *)from, bytes)); }
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
  return LOCKED(call(stream, (struct Node){COPY, to, from, bytes}));
}
Result cuMemcpyPeerAsync() { return fail("a copy between devices"); }
static Result fill(Address at, unsigned char value, size_t bytes) {
  return known(at, bytes) ? (memset((void *)at, value, bytes), 0) : fail("a fill of unknown memory");
}
Result cuMemsetD8Async(Address at, unsigned char value, size_t bytes, void *stream) { return LOCKED(fill(at, value, bytes)); }

// ---- the driver: kernels, streams, events

Result cuModuleLoadData(void **module, const void *code) { return *module = (void *)1, 0; }
Result cuModuleLoadDataEx(void **module, const void *code, unsigned options, void *names, void *values) { return cuModuleLoadData(module, code); }
Result cuModuleLoad(void **module, const char *path) { return cuModuleLoadData(module, path); }
Result cuModuleUnload(void *module) { return 0; }
Result cuModuleGetFunction(void **function, void *module, const char *name) { return *function = strdup(name), 0; }
Result cuFuncSetAttribute(void *function, int which, int value) { return value > 232448 ? fail("shared memory") : 0; }
Result cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **args,
                      void **more) {
  int fits = gx && gy && gz && bx && by && bz && bx * by * bz <= 1024 && gx <= INT32_MAX && gy <= 65535 && gz <= 65535;
  return LOCKED(fits ? call(stream, (struct Node){LAUNCH}) : fail("an impossible grid"));
}
static Result open_stream(void **to) { return opened == 256 ? fail("too many streams") : (*to = streams + opened++, 0); }
Result cuStreamCreate(void **to, unsigned flags) { return LOCKED(open_stream(to)); }
Result cuStreamCreateWithPriority(void **to, unsigned flags, int priority) { return cuStreamCreate(to, flags); }
Result cuStreamDestroy_v2(void *stream) { return stream_of(stream)->recording ? fail("the end of a stream that records") : 0; }
Result cuStreamSynchronize(void *stream) { return stream_of(stream)->recording ? fail("a wait for a stream that records") : 0; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
Result cuStreamIsCapturing(void *stream, int *value) { return *value = stream_of(stream)->recording, 0; }
Result cuEventCreate(void **event, unsigned flags) { return *event = malloc(1), 0; }
Result cuEventDestroy_v2(void *event) { return free(event), 0; }
Result cuEventElapsedTime_v2(float *milliseconds, void *from, void *to) { return *milliseconds = 0.01f, 0; }
Result cuEventQuery(void *event) { return 0; }
Result cuEventRecord(void *event, void *stream) { return 0; }
Result cuEventSynchronize(void *event) { return 0; }

// ---- the driver: graphs

Result cuStreamBeginCapture_v2(void *handle, int mode) {
  struct Stream *stream = stream_of(handle);
  if (stream == streams || stream->recording) return fail("a recording on the default stream or inside another");
  stream->recording = 1;
  stream->graph = calloc(1, sizeof *stream->graph);
  return 0;
}
Result cuStreamEndCapture(void *handle, void **graph) {
  struct Stream *stream = stream_of(handle);
  if (!stream->recording) return fail("the end of no recording");
  stream->recording = 0;
  fprintf(stderr, "DRIVER graph of %d nodes\n", stream->graph->count);
  return *graph = stream->graph, graphs++, 0;
}
Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) { return *executable = graph, 0; }
Result cuGraphExecDestroy(void *executable) { return 0; }
Result cuGraphDestroy(void *graph) { return 0; }
static Result replay(struct Graph *graph) {
  replays++;
  for (int i = 0; i < graph->count; i++) {
    struct Node *node = graph->nodes + i;
    if (node->kind == COPY && copy(node->to, node->from, node->bytes)) return 1;
    if (node->kind == PRODUCT && multiply(*node)) return 1;
  }
  return context ? 0 : fail("no context on this thread");
}
Result cuGraphLaunch(void *graph, void *stream) { return LOCKED(stream_of(stream)->recording ? fail("a graph in a graph") : replay(graph)); }

// ---- libraries

#define MAKES(name) Result name(void **handle) { return *handle = calloc(1, 8), 0; }
#define ENDS(name) Result name(void *handle) { return free(handle), 0; }
#define DOES(name) Result name() { return 0; }
MAKES(cublasCreate_v2) ENDS(cublasDestroy_v2) DOES(cublasSetStream_v2) DOES(cublasDgemmStridedBatched) DOES(cublasGemmStridedBatchedEx)
MAKES(cublasLtCreate) ENDS(cublasLtDestroy) MAKES(cublasLtMatmulDescCreate) ENDS(cublasLtMatmulDescDestroy)
MAKES(cublasLtMatrixLayoutCreate) ENDS(cublasLtMatrixLayoutDestroy) DOES(cublasLtMatrixLayoutSetAttribute)
MAKES(cublasLtMatmulPreferenceCreate) ENDS(cublasLtMatmulPreferenceDestroy) DOES(cublasLtMatmulPreferenceSetAttribute)
MAKES(curandCreateGenerator) ENDS(curandDestroyGenerator) DOES(curandSetPseudoRandomGeneratorSeed) DOES(curandSetStream)
DOES(cudaFuncSetAttribute) DOES(cudaGetDevice) DOES(__cudaGetKernel) DOES(__cudaPopCallConfiguration) DOES(__cudaPushCallConfiguration)
DOES(__cudaRegisterFatBinaryEnd) DOES(__cudaRegisterFunction) DOES(__cudaRegisterVar) DOES(__cudaUnregisterFatBinary)
void **__cudaRegisterFatBinary() { static void *none[4]; return none; }
Result __cudaLaunchKernel_ptsz() { return fail("a kernel of the runtime"); }

Result cublasLtMatmulDescSetAttribute(void *of, int which, const void *value, size_t size) {
  if (which == 7) memcpy(of, value, 4);  // CUBLASLT_MATMUL_DESC_EPILOGUE
  return 0;
}
// With DRIVER_WITHOUT_BIAS, as a build of the library that has no kernel with a bias.
Result cublasLtMatmulAlgoGetHeuristic(void *handle, int *matmul, void *a, void *b, void *c, void *d, void *preference, int wanted, void *results,
                                      int *found) {
  memset(results, 0, 96 * wanted);
  *found = 1;
  return getenv("DRIVER_WITHOUT_BIAS") && *matmul != 1 ? 15 : 0;  // CUBLAS_STATUS_NOT_SUPPORTED
}
Result cublasLtMatmul(void *handle, void *matmul, const void *alpha, Address a, void *of_a, Address b, void *of_b, const void *beta, Address c,
                      void *of_c, Address d, void *of_d, const void *algorithm, Address workspace, size_t bytes, void *stream) {
  return LOCKED(call(stream, (struct Node){PRODUCT, d, workspace, bytes, {a, b, c}})) ? 14 : 0;  // CUBLAS_STATUS_INTERNAL_ERROR
}
