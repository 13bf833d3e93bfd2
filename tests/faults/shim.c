/* A library for LD_PRELOAD that has the Nth system call of some kind fail.
 *
 *   FAULT=HOW:CALLS:N   HOW: kill, enospc, eio, eintr, estale, short; with + behind it every call from the Nth on.
 *                       CALLS: of open (that makes a file), write, fsync, rename, mkdir, unlink, read, look (asks for the state of a
 *                       file, opens one that exists, or opens a folder), list (the next entry of a folder), joined by commas.
 *   FAULT_BELOW=TEXT    counts only calls on files whose path contains the text.
 *   FAULT_COUNT=FILE    gets the number of such calls when the process ends.
 *   FAULT_BLIND=1       locks do not see each other, as on some network file systems.
 *
 * Standard input, output and error are left alone.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const NAMES[] = {"open", "write", "fsync", "rename", "mkdir", "unlink", "read", "look", "list"};
enum { OPEN, WRITE, FSYNC, RENAME, MKDIR, UNLINK, READ, LOOK, LIST, KINDS };
static int wanted[KINDS], every, killing, shortening, code;
static long nth;
static atomic_long calls;

__attribute__((constructor)) static void read_wish(void) {
    const char *text = getenv("FAULT");
    char how[16] = "", kinds[128] = "";
    if (!text || sscanf(text, "%15[^:]:%127[^:]:%ld", how, kinds, &nth) != 3) return;
    every = how[strlen(how) - 1] == '+';
    killing = !strncmp(how, "kill", 4);
    shortening = !strncmp(how, "short", 5);
    code = !strncmp(how, "enospc", 6) ? ENOSPC : !strncmp(how, "eintr", 5) ? EINTR : !strncmp(how, "estale", 6) ? ESTALE : EIO;
    for (char *kind = strtok(kinds, ","); kind; kind = strtok(NULL, ","))
        for (int i = 0; i < KINDS; i++) wanted[i] |= !strcmp(kind, NAMES[i]);
}

__attribute__((destructor)) static void tell_count(void) {
    const char *path = getenv("FAULT_COUNT");
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", atomic_load(&calls));
    if (!path) return;
    int file = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    syscall(SYS_write, file, text, length);
}

/* Whether the file is one of those whose calls count: that of the path or, if the path is not absolute, of the descriptor. */
static int counts(int fd, const char *path) {
    const char *below = getenv("FAULT_BELOW");
    char link[64], name[4096];
    if (!below || (path && strstr(path, below))) return 1;
    if (fd < 0 || (path && *path == '/')) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    name[length < 0 ? 0 : length] = 0;
    return !!strstr(name, below);
}

/* Whether this call is the one. */
static int is_hit(int kind, int fd, const char *path) {
    if (!wanted[kind] || !counts(fd, path)) return 0;
    long call = atomic_fetch_add(&calls, 1) + 1;
    if (every ? call < nth : call != nth) return 0;
    if (killing) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = code;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
/* A short transfer is one of half the bytes, at least one. */
#define TRANSFER(name, kind, fd, length, ...)          \
    if (fd > 2 && is_hit(kind, fd, NULL)) {                      \
        if (!shortening) return -1;                    \
        length = length > 1 ? length / 2 : length;     \
    }                                                  \
    return REAL(name)(__VA_ARGS__)

ssize_t write(int fd, const void *from, size_t length) { TRANSFER(write, WRITE, fd, length, fd, from, length); }
ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) { TRANSFER(pwrite64, WRITE, fd, length, fd, from, length, at); }
ssize_t read(int fd, void *to, size_t length) { TRANSFER(read, READ, fd, length, fd, to, length); }
ssize_t pread64(int fd, void *to, size_t length, off64_t at) { TRANSFER(pread64, READ, fd, length, fd, to, length, at); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t length, unsigned flags) {
    TRANSFER(copy_file_range, WRITE, to, length, from, a, to, b, length, flags);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { TRANSFER(writev, WRITE, fd, count, fd, parts, count); }

#define CALL(kind, fd, path, name, ...) return !shortening && is_hit(kind, fd, path) ? -1 : REAL(name)(__VA_ARGS__)

int flock(int fd, int how) { return getenv("FAULT_BLIND") ? 0 : REAL(flock)(fd, how); }

int fsync(int fd) { CALL(FSYNC, fd, NULL, fsync, fd); }
int fdatasync(int fd) { CALL(FSYNC, fd, NULL, fdatasync, fd); }
int rename(const char *from, const char *to) { CALL(RENAME, -1, from, rename, from, to); }
int mkdir(const char *path, mode_t mode) { CALL(MKDIR, -1, path, mkdir, path, mode); }
int unlink(const char *path) { CALL(UNLINK, -1, path, unlink, path); }
int unlinkat(int dir, const char *path, int flags) { CALL(UNLINK, dir, path, unlinkat, dir, path, flags); }

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if (!shortening && is_hit(flags & O_CREAT ? OPEN : LOOK, -1, path)) return -1;
    return REAL(open64)(path, flags, mode);
}

DIR *opendir(const char *path) { return !shortening && is_hit(LOOK, -1, path) ? NULL : REAL(opendir)(path); }

struct dirent64 *readdir64(DIR *dir) { return !shortening && is_hit(LIST, dirfd(dir), NULL) ? NULL : REAL(readdir64)(dir); }

int statx(int dir, const char *path, int flags, unsigned mask, struct statx *about) {
    CALL(LOOK, dir, path, statx, dir, path, flags, mask, about);
}
