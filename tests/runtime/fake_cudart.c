// A libcudart and a libcuda in the computer's memory: the same calls and arguments, for tests of
// the ctypes port. Copies are done at once, or recorded between begin and end of a capture.
// A call with wrong arguments (a lost pointer half, a missing stream) fails or crashes here as there.
#include <stdlib.h>
#include <string.h>
#include <stddef.h>

typedef struct { void *to; const void *from; size_t count; } Copy;
typedef struct { Copy copies[16]; int count; int magic; } Graph;
enum { STREAM = 77, EVENT = 88, GRAPH = 99 };
static int stream_, event_, live_, fail_capture_, waited_;
static Graph *recording_;

int live(void) { return live_; }
int waited(void) { return waited_; }
void fail_capture(int yes) { fail_capture_ = yes; }

static int make(void **out, size_t size) { *out = calloc(1, size ? size : 1); live_++; return *out ? 0 : 2; }
static int drop(void *p) { if (!p) return 1; free(p); live_--; return 0; }
static int copy(void *to, const void *from, size_t count, void *stream) {
    if (stream != &stream_ || !to || !from) return 1;
    if (recording_) recording_->copies[recording_->count++] = (Copy){to, from, count};
    else memcpy(to, from, count);
    return 0;
}
static int begin(void *stream, int mode) {
    if (stream != &stream_ || mode != 1) return 1;
    if (fail_capture_) return 900;
    recording_ = calloc(1, sizeof(Graph)); recording_->magic = GRAPH; live_++;
    return 0;
}
static int end(void *stream, Graph **out) { if (stream != &stream_) return 1; *out = recording_; recording_ = NULL; return 0; }
static int instantiate(Graph **out, Graph *graph, unsigned long long flags) {
    if (!graph || graph->magic != GRAPH || flags) return 1;
    *out = malloc(sizeof(Graph)); **out = *graph; live_++;
    return 0;
}
static int launch(Graph *graph, void *stream) {
    if (stream != &stream_ || graph->magic != GRAPH) return 1;
    for (int i = 0; i < graph->count; i++) memcpy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].count);
    return 0;
}
static int attribute(int *out, int number, int device) { *out = number == 75 ? 8 : number == 76 ? 7 : -1; return device; }

#define PAIR(result, name, parameters, body) result cuda##name parameters body result cu##name parameters body
PAIR(int, GetDeviceCount, (int *n), { *n = 1; return 0; })
PAIR(int, SetDevice, (int n), { return n; })
PAIR(int, DriverGetVersion, (int *v), { *v = 12060; return 0; })
PAIR(int, DeviceGetAttribute, (int *out, int number, int device), { return attribute(out, number, device); })
PAIR(int, Malloc, (void **out, size_t size), { return make(out, size); })
PAIR(int, Free, (void *p), { return drop(p); })
PAIR(int, HostAlloc, (void **out, size_t size, unsigned flags), { return flags ? 1 : make(out, size); })
PAIR(int, FreeHost, (void *p), { return drop(p); })
PAIR(int, StreamCreateWithFlags, (void **out, unsigned flags), { *out = &stream_; live_++; return flags != 1; })
PAIR(int, EventCreateWithFlags, (void **out, unsigned flags), { *out = &event_; live_++; return flags != 3; })
PAIR(int, StreamDestroy, (void *s), { live_--; return s != &stream_; })
PAIR(int, EventDestroy, (void *e), { live_--; return e != &event_; })
PAIR(int, EventRecord, (void *e, void *s), { return e != &event_ || s != &stream_; })
PAIR(int, EventSynchronize, (void *e), { waited_++; return e != &event_; })
PAIR(int, StreamBeginCapture, (void *s, int mode), { return begin(s, mode); })
PAIR(int, StreamEndCapture, (void *s, Graph **out), { return end(s, out); })
PAIR(int, GraphInstantiateWithFlags, (Graph **out, Graph *g, unsigned long long flags), { return instantiate(out, g, flags); })
PAIR(int, GraphLaunch, (Graph *g, void *s), { return launch(g, s); })
PAIR(int, GraphDestroy, (Graph *g), { return drop(g); })
PAIR(int, GraphExecDestroy, (Graph *g), { return drop(g); })
int cudaMemcpyAsync(void *to, const void *from, size_t count, int way, void *stream) { return way == 1 || way == 2 ? copy(to, from, count, stream) : 1; }
const char *cudaGetErrorString(int code) { return code == 900 ? "operation not permitted when stream is capturing" : "invalid argument"; }

int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &live_; live_++; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { live_--; return device; }
int cuCtxSetCurrent(void *context) { return context != &live_; }
int cuMemAlloc_v2(void **out, size_t size) { return make(out, size); }
int cuMemFree_v2(void *p) { return drop(p); }
int cuMemHostAlloc(void **out, size_t size, unsigned flags) { return flags ? 1 : make(out, size); }
int cuMemFreeHost(void *p) { return drop(p); }
int cuStreamCreate(void **out, unsigned flags) { return cuStreamCreateWithFlags(out, flags); }
int cuEventCreate(void **out, unsigned flags) { return cuEventCreateWithFlags(out, flags); }
int cuStreamDestroy_v2(void *s) { return cuStreamDestroy(s); }
int cuEventDestroy_v2(void *e) { return cuEventDestroy(e); }
int cuStreamBeginCapture_v2(void *s, int mode) { return begin(s, mode); }
int cuMemcpyAsync(void *to, const void *from, size_t count, void *stream) { return copy(to, from, count, stream); }
int cuGetErrorString(int code, const char **text) { *text = cudaGetErrorString(code); return 0; }
