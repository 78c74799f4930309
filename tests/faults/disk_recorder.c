/* Records what a process does to the files of one folder, in order: an LD_PRELOAD library for Linux.
 *
 * RECORDED_FOLDER: the folder, absolute, without a slash at the end. RECORD_TRACE: the file to append records to.
 * A record is {kind, name length, file, offset, data length}, little-endian as the machine is, then name and data; `disk.py`
 * reads them. A record is written once its operation has returned, so what stands before it in the trace had happened.
 * Files named *-shm are left out: they are memory, mapped from a file. SQLite neither renames nor links files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, UNLINK, MAKE_FOLDER, FOLDER_SYNC_BEGIN, FOLDER_SYNC_END, MARK };

struct head {
    uint32_t kind, name_length;
    uint64_t file, offset, data_length;
};

enum { MAX_FDS = 4096, MAX_FILES = 4096 };

static const char *folder;
static size_t folder_length;
static int trace = -1;
static pid_t owner;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t file_of_fd[MAX_FDS];
static char *folder_of_fd[MAX_FDS]; /* relative name of the open folder; "" is the recorded folder itself */
static struct { ino_t inode; uint64_t file; } files[MAX_FILES];
static uint64_t file_count, sync_count;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void fail(const char *why) {
    ssize_t ignored = write(2, why, strlen(why));
    (void)ignored;
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("RECORD_TRACE");
    folder = getenv("RECORDED_FOLDER");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    owner = getpid();
    trace = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0) fail("disk recorder: the trace cannot be opened\n");
}

/* The lock is held. */
static void record(enum kind kind, const char *name, uint64_t file, uint64_t offset, const void *data, size_t length) {
    struct head head = {kind, name ? (uint32_t)strlen(name) : 0, file, offset, length};
    struct iovec parts[3] = {
        {&head, sizeof head}, {(void *)name, head.name_length}, {(void *)data, length}};
    size_t whole = sizeof head + head.name_length + length;
    int saved = errno;
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (real(trace, parts, 3) != (ssize_t)whole) fail("disk recorder: the trace cannot be written\n");
    errno = saved;
}

static void note(enum kind kind, const char *name, uint64_t file, uint64_t offset, const void *data, size_t length) {
    pthread_mutex_lock(&lock);
    record(kind, name, file, offset, data, length);
    pthread_mutex_unlock(&lock);
}

/* The name relative to the recorded folder, or NULL when the path is none of ours. */
static const char *relative(const char *path) {
    if (trace < 0 || !path || strncmp(path, folder, folder_length)) return NULL;
    const char *rest = path + folder_length;
    if (*rest == '/') rest++;
    else if (*rest) return NULL;
    size_t length = strlen(rest);
    if (length >= 4 && !strcmp(rest + length - 4, "-shm")) return NULL;
    return rest;
}

static uint64_t file_of(int fd) {
    return fd >= 0 && fd < MAX_FDS ? file_of_fd[fd] : 0;
}

static void opened(int fd, const char *name, int flags, int existed) {
    struct stat found;
    if (fd >= MAX_FDS) fail("disk recorder: too many open files\n");
    if (fstat(fd, &found)) return;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(found.st_mode)) {
        folder_of_fd[fd] = strdup(name);
    } else {
        uint64_t place = file_count;
        while (place > 0 && files[place - 1].inode != found.st_ino) place--;
        if (!existed || place == 0) {
            if (file_count == MAX_FILES) fail("disk recorder: too many files\n");
            files[file_count].inode = found.st_ino;
            place = ++file_count;
            files[place - 1].file = place;
            record(CREATE, name, place, 0, NULL, 0);
        } else if (flags & O_TRUNC) {
            record(TRUNCATE, NULL, files[place - 1].file, 0, NULL, 0);
        }
        file_of_fd[fd] = files[place - 1].file;
    }
    pthread_mutex_unlock(&lock);
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        REAL(int, #symbol, const char *, int, ...); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; \
        va_end(arguments); \
        const char *name = relative(path); \
        int existed = name && !access(path, F_OK); \
        int fd = real(path, flags, mode); \
        if (name && fd >= 0) opened(fd, name, flags, existed); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, "close", int);
    /* A child between vfork and exec closes its own descriptors, but the memory is still its parent's. */
    if (fd >= 0 && fd < MAX_FDS && getpid() == owner) {
        pthread_mutex_lock(&lock);
        file_of_fd[fd] = 0;
        free(folder_of_fd[fd]);
        folder_of_fd[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return real(fd);
}

#define PWRITE(symbol) \
    ssize_t symbol(int fd, const void *data, size_t length, off64_t offset) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, off64_t); \
        ssize_t written = real(fd, data, length, offset); \
        if (file_of(fd) && written > 0) note(WRITE, NULL, file_of(fd), (uint64_t)offset, data, (size_t)written); \
        return written; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t written = real(fd, data, length);
    if (file_of(fd) && written > 0) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        note(WRITE, NULL, file_of(fd), (uint64_t)(end - written), data, (size_t)written);
    }
    return written;
}

#define FTRUNCATE(symbol) \
    int symbol(int fd, off64_t length) { \
        REAL(int, #symbol, int, off64_t); \
        int status = real(fd, length); \
        if (file_of(fd) && !status) note(TRUNCATE, NULL, file_of(fd), (uint64_t)length, NULL, 0); \
        return status; \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

/* A sync covers what was written before it began, from when it has returned. */
#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        uint64_t file = file_of(fd); \
        const char *name = !file && fd >= 0 && fd < MAX_FDS ? folder_of_fd[fd] : NULL; \
        if (!file && !name) return real(fd); \
        pthread_mutex_lock(&lock); \
        uint64_t number = ++sync_count; \
        record(file ? SYNC_BEGIN : FOLDER_SYNC_BEGIN, name, file, number, NULL, 0); \
        pthread_mutex_unlock(&lock); \
        int status = real(fd); \
        if (!status) note(file ? SYNC_END : FOLDER_SYNC_END, name, file, number, NULL, 0); \
        return status; \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    const char *name = relative(path);
    int status = real(path);
    if (name && !status) note(UNLINK, name, 0, 0, NULL, 0);
    return status;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    const char *name = relative(path);
    int status = real(path, mode);
    if (name && !status) note(MAKE_FOLDER, name, 0, 0, NULL, 0);
    return status;
}

/* Called by the recorded program: something was promised at this moment. */
void disk_recorder_mark(uint64_t promise) {
    if (trace >= 0) note(MARK, NULL, 0, promise, NULL, 0);
}
