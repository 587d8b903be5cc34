/* A libnvidia-ml.so.1 with two GPUs, of which the second tells neither power nor temperature.
 *
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

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, LOST = 15, GPUS = 2 };

typedef struct { unsigned int index; } *Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Rates;

static struct { unsigned int index; } gpus[GPUS] = {{0}, {1}};
static const char *const names[GPUS] = {"NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"};

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int lost(Device device) { return number("FAKE_NVML_LOST", -1) == (int)device->index; }

int nvmlInit_v2(void) { return number("FAKE_NVML_INIT", OK); }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    return code == 9 ? "Driver Not Loaded" : code == LOST ? "GPU is lost" : "Unknown Error";
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
