/* A libnvidia-ml.so.1 for tests: GPUs are a table that the test fills in; calls have NVML's signatures and codes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SCOPES = 3, GPUS = 8, MIGS = 4 };

typedef struct { int32_t ret; uint32_t type; uint64_t value; } stub_field;

typedef struct {
    char name[96], uuid[96];
    uint32_t bus, arch;
    int32_t all_ret;
    int32_t energy_ret;
    uint64_t energy_mj;
    int32_t usage_ret;
    uint32_t usage_mw;
    int32_t fields_ret;
    stub_field fields[2][SCOPES]; /* [0] average, [1] instant */
    int32_t limit_ret;
    uint32_t limit_mw;
    uint32_t mig_mode, mig_count;
    char mig_uuid[MIGS][96];
} stub_gpu;

struct { int32_t init_ret; uint32_t count; uint32_t live; uint32_t opened; stub_gpu gpus[GPUS]; } stub;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* For subprocesses, which cannot fill the table: GPUs of 100 W whose counter moves every 20 ms. */
__attribute__((constructor)) static void from_environment(void) {
    const char *asked = getenv("STUB_NVML_GPUS");
    if (!asked) return;
    stub.count = (uint32_t)atoi(asked);
    stub.live = 1;
    for (uint32_t i = 0; i < stub.count && i < GPUS; i++) {
        stub_gpu *gpu = &stub.gpus[i];
        snprintf(gpu->name, sizeof gpu->name, "NVIDIA Stub %u", i);
        snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-0000000%u-0000", i);
        gpu->bus = i + 1;
        gpu->arch = 9;
        gpu->fields_ret = NOT_SUPPORTED;
        gpu->usage_mw = 100000;
        gpu->limit_mw = 700000;
    }
}

static stub_gpu *gpu_of(void *handle) {
    stub_gpu *gpu = handle;
    return gpu >= stub.gpus && gpu < stub.gpus + GPUS ? gpu : NULL;
}
static int is_gpu(void *handle) {
    char *p = handle, *base = (char *)stub.gpus;
    return p >= base && p < base + sizeof stub.gpus && (size_t)(p - base) % sizeof(stub_gpu) == 0;
}
#define GPU(handle) \
    if (!is_gpu(handle)) return NOT_SUPPORTED; \
    stub_gpu *gpu = gpu_of(handle); \
    if (gpu->all_ret) return gpu->all_ret

int nvmlInitWithFlags(unsigned flags) { (void)flags; if (!stub.init_ret) stub.opened++; return stub.init_ret; }
int nvmlShutdown(void) { stub.opened--; return OK; }
const char *nvmlErrorString(int code) { (void)code; return "stub error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = stub.count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) {
    if (i >= stub.count) return INVALID;
    *handle = &stub.gpus[i];
    return OK;
}
int nvmlDeviceGetName(void *h, char *name, unsigned length) { GPU(h); snprintf(name, length, "%s", gpu->name); return OK; }
int nvmlDeviceGetUUID(void *h, char *uuid, unsigned length) {
    if (!is_gpu(h)) { snprintf(uuid, length, "%s", (char *)h); return OK; }
    snprintf(uuid, length, "%s", gpu_of(h)->uuid);
    return OK;
}
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } pci_info;
int nvmlDeviceGetPciInfo_v3(void *h, pci_info *pci) { GPU(h); memset(pci, 0, sizeof *pci); pci->bus = gpu->bus; return OK; }
int nvmlDeviceGetArchitecture(void *h, unsigned *arch) { GPU(h); *arch = gpu->arch; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) {
    GPU(h);
    *mj = stub.live ? (unsigned long long)(now_s() / 0.02) * 2000ull : gpu->energy_mj;
    return gpu->energy_ret;
}
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { GPU(h); *mw = gpu->usage_mw; return gpu->usage_ret; }
int nvmlDeviceGetPowerManagementLimitConstraints(void *h, unsigned *low, unsigned *high) {
    GPU(h);
    *low = 1000;
    *high = gpu->limit_mw;
    return gpu->limit_ret;
}
typedef union { double d; uint64_t ull; unsigned ui; } value;
typedef struct { uint32_t field, scope; int64_t stamp, latency; uint32_t type; int32_t ret; value v; } field_value;
int nvmlDeviceGetFieldValues(void *h, int count, field_value *values) {
    GPU(h);
    if (gpu->fields_ret) return gpu->fields_ret;
    for (int i = 0; i < count; i++) {
        field_value *f = &values[i];
        if ((f->field != 185 && f->field != 186) || f->scope >= SCOPES) { f->ret = NOT_SUPPORTED; continue; }
        stub_field *from = &gpu->fields[f->field - 185][f->scope];
        f->ret = from->ret;
        f->type = from->type;
        f->v.ull = from->value;
    }
    return OK;
}
int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    GPU(h);
    if (gpu->mig_mode > 1) return NOT_SUPPORTED;
    *current = *pending = gpu->mig_mode;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *count) { GPU(h); *count = MIGS; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **handle) {
    GPU(h);
    if (i >= gpu->mig_count) return NOT_FOUND;
    *handle = gpu->mig_uuid[i];
    return OK;
}
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *celsius) { (void)sensor; GPU(h); *celsius = 47; return OK; }
int nvmlDeviceGetClockInfo(void *h, int kind, unsigned *mhz) {
    GPU(h);
    *mhz = kind == 1 ? 1980 : 2619;
    return kind == 1 || kind == 2 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *reasons) { GPU(h); *reasons = 0x44; return OK; }
int nvmlDeviceGetPowerState(void *h, int *state) { GPU(h); *state = 2; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *mw) { GPU(h); *mw = gpu->limit_mw; return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "550.54.15"); return OK; }
