/* Loaded into a daemon before everything else: fails reads, writes and syncs of chosen files, and moves its clock.

   What to do stands in a file that is shared with the test; see faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITES = 1, SYNCS = 2, READS = 4 };

struct wanted {
    int32_t error;   /* 0: nothing fails */
    int32_t calls;   /* which */
    int64_t fell;    /* how many have failed */
    int64_t ahead;   /* nanoseconds that the clock is moved */
    char part[128];  /* of the path of the files that fail */
};

static struct wanted *wanted;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *wanted, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) wanted = found;
    close(file);
}

static int fails(int file, int call) {
    char link[64], path[4096];
    if (!wanted || !wanted->error || !(wanted->calls & call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, wanted->part)) return 0;
    __sync_fetch_and_add(&wanted->fell, 1);
    errno = wanted->error;
    return 1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    return fails(file, WRITES) ? -1 : real(file, from, size);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(pwrite);
    return fails(file, WRITES) ? -1 : real(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    REAL(pwrite64);
    return fails(file, WRITES) ? -1 : real(file, from, size, at);
}
ssize_t writev(int file, const struct iovec *from, int count) {
    REAL(writev);
    return fails(file, WRITES) ? -1 : real(file, from, count);
}
ssize_t pwritev(int file, const struct iovec *from, int count, off_t at) {
    REAL(pwritev);
    return fails(file, WRITES) ? -1 : real(file, from, count, at);
}
ssize_t pwritev64(int file, const struct iovec *from, int count, off64_t at) {
    REAL(pwritev64);
    return fails(file, WRITES) ? -1 : real(file, from, count, at);
}
ssize_t pwritev2(int file, const struct iovec *from, int count, off_t at, int flags) {
    REAL(pwritev2);
    return fails(file, WRITES) ? -1 : real(file, from, count, at, flags);
}
ssize_t pwritev64v2(int file, const struct iovec *from, int count, off64_t at, int flags) {
    REAL(pwritev64v2);
    return fails(file, WRITES) ? -1 : real(file, from, count, at, flags);
}
ssize_t read(int file, void *to, size_t size) {
    REAL(read);
    return fails(file, READS) ? -1 : real(file, to, size);
}
ssize_t pread(int file, void *to, size_t size, off_t at) {
    REAL(pread);
    return fails(file, READS) ? -1 : real(file, to, size, at);
}
ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    REAL(pread64);
    return fails(file, READS) ? -1 : real(file, to, size, at);
}
int fsync(int file) {
    REAL(fsync);
    return fails(file, SYNCS) ? -1 : real(file);
}
int fdatasync(int file) {
    REAL(fdatasync);
    return fails(file, SYNCS) ? -1 : real(file);
}

int clock_gettime(clockid_t which, struct timespec *out) {
    REAL(clock_gettime);
    int found = real(which, out);
    if (!found && wanted && wanted->ahead && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t at = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + wanted->ahead;
        out->tv_sec = at / 1000000000;
        out->tv_nsec = at % 1000000000;
    }
    return found;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int found = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return found;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
