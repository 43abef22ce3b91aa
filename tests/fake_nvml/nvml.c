/* A stand-in for libnvidia-ml.so.1, scripted by the text file that FAKE_NVML_SCRIPT names.
 *
 * A line is a key and a series: "0.power 412345 E10 412000". Each call takes the next entry, the
 * last one repeats, E<code> makes the call return that error, and a key that is not there makes it
 * return NOT_SUPPORTED. Keys of GPU 0 begin with "0.", of its first MIG device with "0m0.". Text
 * keys (name, uuid) take the rest of the line. Each entry of "0.samples" is what the driver's ring
 * holds at one look, "microseconds:percent" joined by commas, "-" for nothing.
 * Every call on a device is appended to the file that FAKE_NVML_LOG names. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 256
#define RING 16
enum { SUCCESS, INVALID_ARGUMENT = 2, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE, VERSION_MISMATCH = 25 };

typedef int result;
typedef unsigned long long wide;
typedef struct device { char name[16]; } *handle;

static struct { char key[64]; char series[2048]; int calls; } script[KEYS];
static int keys;
static struct device devices[64];
static int live_gpm_samples;

static void record(const char *what) {
    const char *path = getenv("FAKE_NVML_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) { fprintf(log, "%s\n", what); fclose(log); }
}

static void load(void) {
    char line[2200];
    const char *path = getenv("FAKE_NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    keys = 0;
    while (file && keys < KEYS && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        snprintf(script[keys].key, sizeof script[keys].key, "%.63s", line);
        snprintf(script[keys].series, sizeof script[keys].series, "%.2047s", space + 1);
        script[keys++].calls = 0;
    }
    if (file) fclose(file);
}

static int find(const char *owner, const char *key) {
    char full[64];
    snprintf(full, sizeof full, "%s%s%s", owner, *owner ? "." : "", key);
    for (int i = 0; i < keys; i++)
        if (!strcmp(script[i].key, full)) return i;
    return -1;
}

/* The next entry of a series into `entry`; an error entry, or a missing key, is the return value. */
static result next(const char *owner, const char *key, char *entry, size_t size) {
    char copy[2048], what[128];
    if (*owner) { snprintf(what, sizeof what, "%s.%s", owner, key); record(what); }
    int i = find(owner, key);
    if (i < 0) return NOT_SUPPORTED;
    strcpy(copy, script[i].series);
    char *token = strtok(copy, " "), *last = token;
    for (int n = 0; token && n <= script[i].calls; n++, token = strtok(NULL, " ")) last = token;
    script[i].calls++;
    if (!last) return NOT_SUPPORTED;
    if (last[0] == 'E') return atoi(last + 1);
    snprintf(entry, size, "%s", last);
    return SUCCESS;
}

static result number(const char *owner, const char *key, wide *value) {
    char entry[64];
    result r = next(owner, key, entry, sizeof entry);
    if (r == SUCCESS) *value = strtoull(entry, NULL, 0);
    return r;
}

static result small(handle d, const char *key, unsigned *value) {
    wide v;
    result r = number(d->name, key, &v);
    if (r == SUCCESS) *value = (unsigned)v;
    return r;
}

static result text(handle d, const char *key, char *out, unsigned size) {
    int i = find(d->name, key);
    if (i < 0) return NOT_SUPPORTED;
    if (script[i].series[0] == 'E' && script[i].series[1] >= '0' && script[i].series[1] <= '9')
        return atoi(script[i].series + 1);
    if (strlen(script[i].series) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, script[i].series);
    return SUCCESS;
}

static handle device_named(const char *name) {
    for (int i = 0; i < 64; i++) {
        if (!devices[i].name[0]) strcpy(devices[i].name, name);
        if (!strcmp(devices[i].name, name)) return &devices[i];
    }
    return NULL;
}

result nvmlInitWithFlags(unsigned flags) {
    wide ignored;
    (void)flags;
    load();
    record("init");
    return find("", "init") < 0 ? SUCCESS : number("", "init", &ignored);
}

result nvmlShutdown(void) {
    record(live_gpm_samples ? "shutdown with gpm samples alive" : "shutdown");
    return SUCCESS;
}

result nvmlSystemGetDriverVersion(char *out, unsigned size) { return next("", "driver", out, size); }

result nvmlSystemGetCudaDriverVersion_v2(int *version) {
    wide v;
    result r = number("", "cuda", &v);
    if (r == SUCCESS) *version = (int)v;
    return r;
}

result nvmlDeviceGetCount_v2(unsigned *count) {
    wide v;
    result r = number("", "count", &v);
    if (r == SUCCESS) *count = (unsigned)v;
    return r;
}

result nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *d) {
    char name[16];
    wide ignored;
    snprintf(name, sizeof name, "%u", index);
    if (find(name, "open") >= 0) {
        result r = number(name, "open", &ignored);
        if (r != SUCCESS) return r;
    }
    *d = device_named(name);
    return SUCCESS;
}

result nvmlDeviceGetName(handle d, char *out, unsigned size) { return text(d, "name", out, size); }
result nvmlDeviceGetUUID(handle d, char *out, unsigned size) { return text(d, "uuid", out, size); }

result nvmlDeviceGetMinorNumber(handle d, unsigned *v) { return small(d, "minor", v); }

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, vendor, subsystem;
    char id[32];
} pci_info;

result nvmlDeviceGetPciInfo_v3(handle d, pci_info *info) {
    char entry[64];
    result r = next(d->name, "pci", entry, sizeof entry);
    if (r != SUCCESS) return r;
    if (sscanf(entry, "%x:%x:%x", &info->domain, &info->bus, &info->device) != 3) return INVALID_ARGUMENT;
    snprintf(info->id, sizeof info->id, "%08X:%02X:%02X.0", info->domain, info->bus, info->device);
    return SUCCESS;
}

typedef union { double d; unsigned u; unsigned long l; wide w; } value;
typedef struct { wide microseconds; value v; } sample;

/* As the driver does: without a buffer, room for the whole ring; with one, what is newer than `seen`. */
result nvmlDeviceGetSamples(handle d, int kind, wide seen, int *value_type, unsigned *count, sample *out) {
    char entry[1024];
    if (kind != 1) return INVALID_ARGUMENT;
    if (find(d->name, "samples") < 0) return NOT_SUPPORTED;
    if (!out) { *count = RING; return SUCCESS; }
    result r = next(d->name, "samples", entry, sizeof entry);
    if (r != SUCCESS) return r;
    unsigned found = 0;
    for (char *token = strtok(entry, ","); token && found < *count; token = strtok(NULL, ",")) {
        wide microseconds;
        unsigned percent;
        if (sscanf(token, "%llu:%u", &microseconds, &percent) != 2 || microseconds <= seen) continue;
        out[found].microseconds = microseconds;
        memset(&out[found].v, 0xA5, sizeof out[found].v); /* reading the wrong field shows */
        out[found++].v.u = percent;
    }
    *value_type = 1;
    *count = found;
    return found ? SUCCESS : NOT_FOUND;
}

typedef struct { unsigned gpu, memory; } utilization;

result nvmlDeviceGetUtilizationRates(handle d, utilization *u) {
    u->memory = 77;
    return small(d, "busy", &u->gpu);
}

typedef struct { wide total, free, used; } memory_v1;
typedef struct { unsigned version; wide total, reserved, free, used; } memory_v2;

/* Memory is scripted as "total,used" with an optional ",reserved", which version 1 counts as used. */
static result memory(handle d, const char *key, wide *total, wide *used, wide *reserved) {
    char entry[128];
    result r = next(d->name, key, entry, sizeof entry);
    if (r != SUCCESS) return r;
    *reserved = 0;
    return sscanf(entry, "%llu,%llu,%llu", total, used, reserved) >= 2 ? SUCCESS : INVALID_ARGUMENT;
}

result nvmlDeviceGetMemoryInfo(handle d, memory_v1 *m) {
    wide reserved;
    result r = memory(d, "memory_v1", &m->total, &m->used, &reserved);
    if (r == SUCCESS) { m->used += reserved; m->free = m->total - m->used; }
    return r;
}

result nvmlDeviceGetMemoryInfo_v2(handle d, memory_v2 *m) {
    if (m->version != (sizeof *m | 2u << 24)) return VERSION_MISMATCH;
    result r = memory(d, "memory", &m->total, &m->used, &m->reserved);
    if (r == SUCCESS) m->free = m->total - m->used - m->reserved;
    return r;
}

result nvmlDeviceGetPowerUsage(handle d, unsigned *v) { return small(d, "power", v); }
result nvmlDeviceGetEnforcedPowerLimit(handle d, unsigned *v) { return small(d, "limit", v); }
result nvmlDeviceGetTotalEnergyConsumption(handle d, wide *v) { return number(d->name, "energy", v); }
result nvmlDeviceGetCurrentClocksEventReasons(handle d, wide *v) { return number(d->name, "reasons", v); }
result nvmlDeviceGetCurrentClocksThrottleReasons(handle d, wide *v) { return number(d->name, "reasons", v); }

result nvmlDeviceGetClockInfo(handle d, int clock, unsigned *v) {
    return clock == 1 ? small(d, "clock", v) : INVALID_ARGUMENT;
}

result nvmlDeviceGetMaxClockInfo(handle d, int clock, unsigned *v) {
    return clock == 1 ? small(d, "clock_max", v) : INVALID_ARGUMENT;
}

typedef struct { unsigned version; int sensor; int degrees; } temperature;

result nvmlDeviceGetTemperatureV(handle d, temperature *t) {
    if (t->version != (sizeof *t | 1u << 24)) return VERSION_MISMATCH;
    return t->sensor == 0 ? small(d, "temperature", (unsigned *)&t->degrees) : INVALID_ARGUMENT;
}

result nvmlDeviceGetTemperature(handle d, int sensor, unsigned *v) {
    return sensor == 0 ? small(d, "temperature", v) : INVALID_ARGUMENT;
}

result nvmlDeviceGetTemperatureThreshold(handle d, int threshold, unsigned *v) {
    return threshold == 1 ? small(d, "slowdown", v) : INVALID_ARGUMENT;
}

result nvmlDeviceGetMigMode(handle d, unsigned *current, unsigned *pending) {
    result r = small(d, "mig", current);
    *pending = *current;
    return r;
}

result nvmlDeviceGetMaxMigDeviceCount(handle d, unsigned *v) { return small(d, "mig_slots", v); }

result nvmlDeviceGetMigDeviceHandleByIndex(handle d, unsigned index, handle *mig) {
    char name[40];
    snprintf(name, sizeof name, "%sm%u", d->name, index);
    if (find(name, "uuid") < 0) return NOT_FOUND;
    if (find(name, "open") >= 0) {
        wide ignored;
        result r = number(name, "open", &ignored);
        if (r != SUCCESS) return r;
    }
    *mig = device_named(name);
    return SUCCESS;
}

result nvmlDeviceGetGpuInstanceId(handle d, unsigned *v) { return small(d, "gi", v); }
result nvmlDeviceGetComputeInstanceId(handle d, unsigned *v) { return small(d, "ci", v); }

/* GPM: a sample is a look; a metric is scripted per look as "0.gpm.<id>", read when two are compared. */
typedef struct { char owner[16]; int look; } *gpm_sample;
typedef struct { unsigned id; result code; double value; struct { char *s, *l, *u; } info; } gpm_metric;
typedef struct { unsigned version, count; gpm_sample before, after; gpm_metric metrics[333]; } gpm_request;
typedef struct { unsigned version, supported; } gpm_support;

result nvmlGpmQueryDeviceSupport(handle d, gpm_support *s) {
    return s->version == 1 ? small(d, "gpm", &s->supported) : VERSION_MISMATCH;
}

result nvmlGpmSampleAlloc(gpm_sample *s) {
    *s = calloc(1, sizeof **s);
    live_gpm_samples++;
    return SUCCESS;
}

result nvmlGpmSampleFree(gpm_sample s) {
    free(s);
    live_gpm_samples--;
    return SUCCESS;
}

result nvmlGpmSampleGet(handle d, gpm_sample s) {
    static int looks;
    wide ignored = 0;
    result r = find(d->name, "gpm_look") < 0 ? SUCCESS : number(d->name, "gpm_look", &ignored);
    strcpy(s->owner, d->name);
    s->look = ++looks;
    return r;
}

/* Metrics of GPU instance 3 of GPU 0 are scripted as "0gi3.gpm.<id>". */
result nvmlGpmMigSampleGet(handle d, unsigned instance, gpm_sample s) {
    result r = nvmlGpmSampleGet(d, s);
    snprintf(s->owner, sizeof s->owner, "%.7sgi%u", d->name, instance);
    return r;
}

result nvmlGpmMetricsGet(gpm_request *q) {
    if (q->version != 1) return VERSION_MISMATCH;
    if (strcmp(q->before->owner, q->after->owner) || q->before->look >= q->after->look) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < q->count; i++) {
        char key[32], entry[64];
        snprintf(key, sizeof key, "gpm.%u", q->metrics[i].id);
        q->metrics[i].code = next(q->after->owner, key, entry, sizeof entry);
        q->metrics[i].value = q->metrics[i].code == SUCCESS ? strtod(entry, NULL) : 0;
    }
    return SUCCESS;
}
