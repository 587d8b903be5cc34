/* A libnvidia-ml.so.1 with two GPUs, of which the second tells neither power nor temperature.
 *
 * FAKE_NVML_AWAY   a file; while it is there the first GPU is lost, and until NVML is opened anew
 * FAKE_NVML_PID    the process that holds 700 MiB of the first GPU
 * FAKE_NVML_XID    an Xid that the driver tells of, once
 * FAKE_NVML_INIT   what nvmlInit_v2 returns (9: driver not loaded)
 * FAKE_NVML_LOST   the index of a GPU that is lost (15)
 * FAKE_NVML_HANG   every memory reading sleeps for an hour
 * FAKE_NVML_CRASH  every memory reading ends in SIGSEGV
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, TIMEOUT = 10, LOST = 15, GPUS = 2 };

typedef struct { unsigned int index; } *Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Rates;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } Process;
typedef struct { Device device; unsigned long long kind, data; unsigned int gi, ci; } Event;

static struct { unsigned int index; } gpus[GPUS] = {{0}, {1}};
static const char *const names[GPUS] = {"NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"};

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int away(void) {
    const char *file = getenv("FAKE_NVML_AWAY");
    return file && access(file, F_OK) == 0;
}

static int fallen;

static int lost(Device device) {
    fallen = fallen || away();
    if (fallen && device->index == 0) return 1;
    return number("FAKE_NVML_LOST", -1) == (int)device->index;
}

int nvmlInit_v2(void) {
    fallen = away();
    return number("FAKE_NVML_INIT", OK);
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case UNSUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = GPUS; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device *device) {
    if (index >= GPUS) return INVALID;
    *device = (Device)&gpus[index];
    return lost(*device) ? LOST : OK;
}

int nvmlDeviceGetUUID(Device device, char *text, unsigned int length) {
    snprintf(text, length, "GPU-00000000-0000-4000-8000-00000000000%u", device->index);
    return OK;
}

int nvmlDeviceGetName(Device device, char *text, unsigned int length) {
    snprintf(text, length, "%s", names[device->index]);
    return OK;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    if (getenv("FAKE_NVML_HANG")) sleep(3600);
    if (getenv("FAKE_NVML_CRASH")) raise(SIGSEGV);
    memory->total = (device->index ? 24ULL : 80ULL) << 30;
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(Device device, Rates *rates) {
    rates->gpu = device->index ? 0 : 37;
    rates->memory = 0;
    return OK;
}

int nvmlDeviceGetTemperature(Device device, unsigned int sensor, unsigned int *degrees) {
    (void)sensor;
    *degrees = 51;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlDeviceGetPowerUsage(Device device, unsigned int *milliwatts) {
    *milliwatts = 210500;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned int *milliwatts) {
    *milliwatts = 700000;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *millijoules) {
    *millijoules = 5000500;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlDeviceGetPciInfo_v3(Device device, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 0x17 + device->index);
    return OK;
}

int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    snprintf(text, length, "570.86.15");
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor) {
    *major = device->index ? 8 : 9;
    *minor = device->index ? 9 : 0;
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *reasons) {
    *reasons = device->index ? 0 : 0x4 | 0x20;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(Device device, int kind, int counter, unsigned long long *errors) {
    (void)kind, (void)counter;
    *errors = 3;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned int *count, Process *list) {
    (void)device, (void)list;
    *count = 0;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned int *count, Process *list) {
    int pid = device->index ? 0 : number("FAKE_NVML_PID", 0);
    unsigned int room = *count;
    *count = pid ? 1 : 0;
    if (room < *count) return SMALL;
    if (pid) list[0] = (Process){pid, 700ULL << 20, 0xFFFFFFFFu, 0xFFFFFFFFu};
    return OK;
}

int nvmlEventSetCreate(void **set) { *set = gpus; return OK; }

int nvmlEventSetFree(void *set) { (void)set; return OK; }

int nvmlDeviceRegisterEvents(Device device, unsigned long long kinds, void *set) {
    (void)kinds, (void)set;
    return device->index ? UNSUPPORTED : OK;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned int milliseconds) {
    static int told;
    int xid = number("FAKE_NVML_XID", 0);
    (void)set, (void)milliseconds;
    if (!xid || told) return TIMEOUT;
    told = 1;
    *event = (Event){(Device)&gpus[0], 8, xid, 0, 0};
    return OK;
}
