// A stand-in for the CUDA runtime and its libraries under PyTorch's CUDA build: memory is the host's, kernels do
// nothing, and what would reach a GPU is counted. PyTorch's own dispatcher, allocator, streams, events, generators and
// alerts run as they are. Preloaded; `generated.inc` holds every symbol that PyTorch wants and that is not defined here.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <driver_types.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define API extern "C" __attribute__((visibility("default")))

using Pointer = void*;
using Lock = std::lock_guard<std::recursive_mutex>;

// ---- What is counted ------------------------------------------------------------------------------------------------

static std::recursive_mutex mutex;
static std::map<std::string, long> totals;   // launches, library_calls, synchronisations, copies by kind
static std::map<std::string, long> kernels;  // launches and library calls by name
static std::map<std::string, long> calls;    // all other calls by name
static size_t locked = 0;                    // bytes of the host's memory that are page-locked

static void count(std::map<std::string, long>& counts, const std::string& name) {
  Lock lock(mutex);
  counts[name]++;
}

static int other(const char* name) {
  count(calls, name);
  return 0;
}

static int library_call(const char* name) {
  count(totals, "library_calls");
  count(kernels, name);
  return 0;
}

static int synchronisation(const char* name) {
  count(totals, "synchronisations");
  return other(name);
}

API void nullgpu_library_call(const char* name) { library_call(name); }

API void nullgpu_reset() {
  Lock lock(mutex);
  totals.clear();
  kernels.clear();
  calls.clear();
}

static std::string json(const std::map<std::string, long>& counts) {
  std::string text;
  for (auto& item : counts) text += (text.empty() ? "" : ",") + ("\"" + item.first + "\":" + std::to_string(item.second));
  return "{" + text + "}";
}

API const char* nullgpu_report() {
  static std::string text;
  Lock lock(mutex);
  text = "{\"totals\":" + json(totals) + ",\"kernels\":" + json(kernels) + ",\"calls\":" + json(calls) +
         ",\"page_locked_bytes\":" + std::to_string(locked) + "}";
  return text.c_str();
}

// A process that forks after its first CUDA call cannot use CUDA in the child: a real GPU fails there.
static bool used = false, forked = false;
static void in_child() { forked = used; }
__attribute__((constructor)) static void watch_forks() { pthread_atfork(nullptr, nullptr, in_child); }

static bool usable(const char* name) {
  used = true;
  if (forked) fprintf(stderr, "CUDA call in a forked process: %s\n", name);
  return !forked;
}

#define USABLE(name) if (!usable(name)) return cudaErrorInitializationError

// ---- Devices --------------------------------------------------------------------------------------------------------

static thread_local int current = 0;
static const size_t MEMORY = 80ull << 30;

static long variable(const char* name, long otherwise) {
  const char* value = getenv(name);
  return value ? atol(value) : otherwise;
}

API int cudaGetDeviceCount(int* count) {
  *count = (int)variable("NULL_GPUS", 1);
  return 0;
}
API int cudaGetDevice(int* device) {
  // An old driver counts its devices and starts none of them.
  if (variable("NULL_GPU_BROKEN", 0)) return cudaErrorInsufficientDriver;
  USABLE("cudaGetDevice");
  *device = current;
  return 0;
}
API int cudaSetDevice(int device) {
  if (variable("NULL_GPU_BROKEN", 0)) return cudaErrorInsufficientDriver;
  USABLE("cudaSetDevice");
  current = device;
  return 0;
}
API int cudaDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
API int cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return 0;
}
API int cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "Null GPU (computes nothing)");
  found->totalGlobalMem = MEMORY;
  found->major = 9;
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->maxThreadsPerBlock = 1024;
  found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->maxThreadsPerMultiProcessor = 2048;
  found->sharedMemPerBlock = 49152;
  found->sharedMemPerBlockOptin = 232448;
  found->sharedMemPerMultiprocessor = 233472;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->l2CacheSize = 50 << 20;
  found->totalConstMem = 65536;
  found->textureAlignment = 512;
  found->unifiedAddressing = found->concurrentKernels = 1;
  found->asyncEngineCount = 3;
  return 0;
}
API int cudaDeviceGetAttribute(int* value, int attribute, int) {
  static const std::map<int, int> values = {
      {1, 1024},  {2, 1024},    {3, 1024},   {4, 64},    {5, 2147483647}, {6, 65535},   {7, 65535},   {8, 49152}, {10, 32},
      {16, 132},  {38, 50 << 20}, {39, 2048}, {75, 9},   {76, 0},         {81, 233472}, {82, 65536}, {97, 232448}, {106, 32}};
  auto found = values.find(attribute);
  *value = found == values.end() ? 1 : found->second;
  return 0;
}
API int cudaDeviceGetPCIBusId(char* text, int length, int) {
  strncpy(text, "0000:00:00.0", length);
  return 0;
}
API int cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return 0;
}
API int cudaGetLastError() { return 0; }
API int cudaPeekAtLastError() { return 0; }
API const char* cudaGetErrorString(int error) {
  return error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
                                              : "an error of the null GPU";
}
API const char* cudaGetErrorName(int) { return "nullgpu"; }

// ---- Memory: the host's, given back on cudaFree ---------------------------------------------------------------------

static std::map<char*, size_t> on_device, page_locked;
static size_t taken = 0;

static bool within(std::map<char*, size_t>& blocks, const void* address) {
  Lock lock(mutex);
  auto next = blocks.upper_bound((char*)address);
  if (next == blocks.begin()) return false;
  --next;
  return (char*)address < next->first + next->second;
}
static size_t pages(size_t bytes) { return (bytes ? bytes + 4095 : 4096) & ~4095ull; }
static Pointer grab(size_t bytes) {
  Pointer address = mmap(0, pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
}
static void take(std::map<char*, size_t>& blocks, Pointer* address, size_t bytes) {
  *address = grab(bytes);
  Lock lock(mutex);
  blocks[(char*)*address] = bytes;
}
static size_t give_back(std::map<char*, size_t>& blocks, Pointer address) {
  Lock lock(mutex);
  auto found = blocks.find((char*)address);
  if (found == blocks.end()) return 0;
  size_t bytes = found->second;
  munmap(address, pages(bytes));
  blocks.erase(found);
  return bytes;
}

API int cudaMemGetInfo(size_t* free, size_t* total) {
  *free = MEMORY - taken;
  *total = MEMORY;
  return 0;
}
API int cudaMalloc(Pointer* address, size_t bytes) {
  USABLE("cudaMalloc");
  Lock lock(mutex);
  if (taken + bytes > (size_t)variable("NULL_GPU_BYTES", (long)MEMORY)) return cudaErrorMemoryAllocation;
  taken += bytes;
  take(on_device, address, bytes);
  return other("cudaMalloc");
}
API int cudaFree(Pointer address) {
  USABLE("cudaFree");
  Lock lock(mutex);
  taken -= give_back(on_device, address);
  return 0;
}
API int cudaHostAlloc(Pointer* address, size_t bytes, unsigned) {
  USABLE("cudaHostAlloc");
  take(page_locked, address, bytes);
  Lock lock(mutex);
  locked += bytes;
  return other("cudaHostAlloc");
}
API int cudaFreeHost(Pointer address) {
  Lock lock(mutex);
  locked -= give_back(page_locked, address);
  return 0;
}
API int cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  memset(found, 0, sizeof *found);
  found->type = within(on_device, address) ? cudaMemoryTypeDevice
                : within(page_locked, address) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  found->device = current;
  if (found->type == cudaMemoryTypeDevice) found->devicePointer = (Pointer)address;
  if (found->type == cudaMemoryTypeHost) found->hostPointer = (Pointer)address;
  return 0;
}

static void copy(Pointer to, const void* from, size_t bytes) {
  bool out = within(on_device, from), in = within(on_device, to);
  if (out && !in) count(totals, "copies_to_host");
  else if (out) count(totals, "copies_on_device");
  else {
    count(totals, "copies_to_device");
    // From pageable memory the host waits for the copy.
    if (!within(page_locked, from)) count(totals, "pageable_copies_to_device");
  }
  memcpy(to, from, bytes);
}
API int cudaMemcpyAsync(Pointer to, const void* from, size_t bytes, int, Pointer) {
  USABLE("cudaMemcpyAsync");
  copy(to, from, bytes);
  return 0;
}
API int cudaMemcpy(Pointer to, const void* from, size_t bytes, int) {
  copy(to, from, bytes);
  return synchronisation("cudaMemcpy");
}
API int cudaMemset(Pointer address, int value, size_t bytes) {
  memset(address, value, bytes);
  return library_call("memset");
}
API int cudaMemsetAsync(Pointer address, int value, size_t bytes, Pointer) { return cudaMemset(address, value, bytes); }
API int cudaGetSymbolAddress(Pointer* address, const void*) {
  take(on_device, address, 4096);
  return 0;
}

// ---- Streams and events: everything is done at once -----------------------------------------------------------------

static Pointer next_stream() {
  static long last = 0x1000;
  return (Pointer)(last += 16);
}
API int cudaStreamCreate(Pointer* stream) {
  *stream = next_stream();
  return 0;
}
API int cudaStreamCreateWithFlags(Pointer* stream, unsigned) { return cudaStreamCreate(stream); }
API int cudaStreamCreateWithPriority(Pointer* stream, unsigned, int) { return cudaStreamCreate(stream); }
API int cudaStreamSynchronize(Pointer) {
  USABLE("cudaStreamSynchronize");
  return synchronisation("cudaStreamSynchronize");
}
API int cudaDeviceSynchronize() { return synchronisation("cudaDeviceSynchronize"); }
API int cudaStreamIsCapturing(Pointer, int* status) {
  *status = 0;
  return 0;
}
API int cudaStreamGetCaptureInfo(Pointer, int* status, unsigned long long* id, Pointer*, Pointer**, Pointer**, size_t*) {
  *status = 0;
  if (id) *id = 0;
  return 0;
}
API int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return 0;
}
API int cudaStreamGetPriority(Pointer, int* priority) {
  *priority = 0;
  return 0;
}

struct Event {
  double seconds;
};
static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
API int cudaEventCreate(Pointer* event) {
  *event = new Event{0};
  return 0;
}
API int cudaEventCreateWithFlags(Pointer* event, unsigned) { return cudaEventCreate(event); }
API int cudaEventDestroy(Pointer event) {
  delete (Event*)event;
  return 0;
}
API int cudaEventRecord(Pointer event, Pointer) {
  ((Event*)event)->seconds = now();
  return other("cudaEventRecord");
}
API int cudaEventRecordWithFlags(Pointer event, Pointer stream, unsigned) { return cudaEventRecord(event, stream); }
API int cudaEventSynchronize(Pointer) { return synchronisation("cudaEventSynchronize"); }
API int cudaEventElapsedTime(float* milliseconds, Pointer from, Pointer to) {
  *milliseconds = (float)(1e3 * (((Event*)to)->seconds - ((Event*)from)->seconds));
  return 0;
}
API int cudaEventElapsedTime_v2(float* milliseconds, Pointer from, Pointer to) {
  return cudaEventElapsedTime(milliseconds, from, to);
}

// ---- Kernels --------------------------------------------------------------------------------------------------------

struct Size {
  unsigned x, y, z;
};
struct Launch {
  Size grid, block;
  size_t shared;
  Pointer stream;
};
static std::unordered_map<const void*, std::string> names;
static thread_local std::vector<Launch> launches;
static char binary;

API void** __cudaRegisterFatBinary(void*) { return (void**)&binary; }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API char __cudaInitModule(void**) { return 1; }
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  Lock lock(mutex);
  names[host] = name;
}
API unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared, Pointer stream) {
  launches.push_back({grid, block, shared, stream});
  return 0;
}
API int __cudaPopCallConfiguration(Size* grid, Size* block, size_t* shared, void* stream) {
  Launch last = launches.back();
  launches.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *(Pointer*)stream = last.stream;
  return 0;
}
static int launch(const void* function) {
  USABLE("a launch");
  Lock lock(mutex);
  totals["launches"]++;
  auto found = names.find(function);
  kernels[found == names.end() ? "unknown" : found->second]++;
  return 0;
}
API int __cudaGetKernel(Pointer* kernel, const void* function) {
  *kernel = (Pointer)function;
  return 0;
}
API int __cudaLaunchKernel(Pointer kernel, Size, Size, void**, size_t, Pointer) { return launch(kernel); }
API int cudaLaunchKernel(const void* function, Size, Size, void**, size_t, Pointer) { return launch(function); }
API int cudaLaunchKernelExC(const void*, const void* function, void**) { return launch(function); }
API int cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = 90;
  return 0;
}
API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 2;
  return 0;
}
API int cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, int) { return 0; }

// ---- The driver, as far as PyTorch asks it through the runtime ------------------------------------------------------

static int done() { return 0; }
static int current_context(Pointer* context) {
  *context = (Pointer)1;
  return 0;
}
static int primary_context(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  *active = 1;
  return 0;
}
API int cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long, int* status) {
  *function = strstr(name, "PrimaryCtxGetState") ? (void*)primary_context
              : strstr(name, "CtxGetCurrent")    ? (void*)current_context
                                                 : (void*)done;
  if (status) *status = 0;
  return 0;
}

// ---- Libraries: what PyTorch reads back from them -------------------------------------------------------------------

#define HANDLE(name) API int name(Pointer* handle) { *handle = (Pointer)1; return 0; }
#define DESCRIPTOR(name, ...) API int name(Pointer* handle, ##__VA_ARGS__) { *handle = calloc(1, 64); return 0; }
#define FREED(name) API int name(Pointer handle) { free(handle); return 0; }

API int cublasCreate_v2(Pointer* handle) {
  if (variable("NULL_GPU_NO_CUBLAS", 0)) return 3;  // CUBLAS_STATUS_ALLOC_FAILED
  *handle = (Pointer)1;
  return 0;
}
API int cublasGetMathMode(Pointer, int* mode) {
  *mode = 0;
  return 0;
}
API int cublasGetPointerMode_v2(Pointer, int* mode) {
  *mode = 0;
  return 0;
}
API size_t cublasLtGetVersion() { return 130000; }
DESCRIPTOR(cublasLtMatmulPreferenceCreate)
DESCRIPTOR(cublasLtMatmulDescCreate, int, int)
DESCRIPTOR(cublasLtMatrixLayoutCreate, int, uint64_t, uint64_t, int64_t)
FREED(cublasLtMatmulPreferenceDestroy)
FREED(cublasLtMatmulDescDestroy)
FREED(cublasLtMatrixLayoutDestroy)
API int cublasLtMatmulAlgoGetHeuristic(Pointer, Pointer, Pointer, Pointer, Pointer, Pointer, Pointer, int, void* results,
                                       int* found) {
  memset(results, 0, 96);
  *found = 1;
  return 0;
}
HANDLE(cudnnCreate)
DESCRIPTOR(cudnnCreateTensorDescriptor)
DESCRIPTOR(cudnnCreateActivationDescriptor)
DESCRIPTOR(cudnnCreateFilterDescriptor)
DESCRIPTOR(cudnnCreatePoolingDescriptor)
API size_t cudnnGetVersion() { return 92400; }
API size_t cudnnGetCudartVersion() { return 13000; }
API int cudnnGetProperty(int part, int* value) {
  static const int version[] = {9, 24, 0};
  *value = version[part];
  return 0;
}
API const char* cudnnGetErrorString(int) { return "an error of the null GPU"; }
API int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(Pointer, int, int, Pointer, Pointer, Pointer, Pointer,
                                                                 Pointer, size_t* bytes) {
  *bytes = 0;
  return 0;
}
API int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(Pointer, int, int, Pointer, Pointer, size_t* bytes) {
  *bytes = 0;
  return 0;
}
API int cudnnGetBatchNormalizationBackwardExWorkspaceSize(Pointer, int, int, Pointer, Pointer, Pointer, Pointer, Pointer,
                                                          Pointer, Pointer, size_t* bytes) {
  *bytes = 0;
  return 0;
}
HANDLE(cusolverDnCreate)
HANDLE(cusolverDnCreateParams)
HANDLE(cusparseCreate)
API int cusolverDnSgetrf_bufferSize(Pointer, int rows, int columns, Pointer, int, int* size) {
  *size = rows * columns;
  return 0;
}
API int cusolverDnDgetrf_bufferSize(Pointer, int rows, int columns, Pointer, int, int* size) {
  *size = rows * columns;
  return 0;
}

#include "generated.inc"
