// Preloaded into qemu, makes its image I/O fail or hang while a flag file says so. For tests only.
//
// FAULT_FLAG in the environment names the flag file. Each of its lines is "LETTERS PART" and hurts the files whose
// path contains PART:
//   W writes (and allocating, discarding, truncating), R reads, F flushes    fail with EIO;
//   with N too: with ENOSPC;   with H too: they hang until the line is gone, and then do their work.
// What is hurt is told in FLAG.hits, one line each: the letter and the path.
//
// Only the calls that QEMU's thread pool makes are wrapped (io=threads, the default), not libaio and io_uring.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum effect { NONE, FAIL, FULL, HANG };

// What the flag file says about `operation` on the file `path`.
static enum effect effect_on(const char *flag, char operation, const char *path) {
  char text[4096];
  int fd = open(flag, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return NONE;
  ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  text[size < 0 ? 0 : size] = 0;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n"))) {
    const char *letters = strsep(&line, " ");
    if (!line || !*line || !strchr(letters, operation) || !strstr(path, line))
      continue;
    return strchr(letters, 'H') ? HANG : strchr(letters, 'N') ? FULL : FAIL;
  }
  return NONE;
}

static void tell(const char *flag, char operation, const char *path) {
  char name[512], line[600];
  snprintf(name, sizeof name, "%s.hits", flag);
  int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0)
    return;
  int size = snprintf(line, sizeof line, "%c %s\n", operation, path);
  if (write(fd, line, size) != size) {
    // Nobody to tell.
  }
  close(fd);
}

// Whether the call has to fail, with errno set; returns late when it has to hang.
static int hurts(int fd, char operation) {
  const char *flag = getenv("FAULT_FLAG");
  char link[64], path[512];
  if (!flag || access(flag, F_OK))
    return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0)
    return 0;
  path[size] = 0;
  enum effect effect = effect_on(flag, operation, path);
  if (effect == NONE)
    return 0;
  tell(flag, operation, path);
  while (effect == HANG) {
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    effect = effect_on(flag, operation, path);
  }
  if (effect == NONE)
    return 0;
  errno = effect == FULL ? ENOSPC : EIO;
  return 1;
}

#define WRAP(type, name, operation, parameters, ...)                                                                   \
  type name parameters {                                                                                               \
    static type(*real) parameters;                                                                                     \
    if (!real)                                                                                                         \
      real = dlsym(RTLD_NEXT, #name);                                                                                  \
    return hurts(fd, operation) ? -1 : real(__VA_ARGS__);                                                              \
  }

#define VECTOR int fd, const struct iovec *vector, int count
WRAP(ssize_t, pwrite, 'W', (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
WRAP(ssize_t, pwrite64, 'W', (int fd, const void *data, size_t size, off64_t at), fd, data, size, at)
WRAP(ssize_t, pwritev, 'W', (VECTOR, off_t at), fd, vector, count, at)
WRAP(ssize_t, pwritev64, 'W', (VECTOR, off64_t at), fd, vector, count, at)
WRAP(ssize_t, pwritev2, 'W', (VECTOR, off_t at, int flags), fd, vector, count, at, flags)
WRAP(ssize_t, pwritev64v2, 'W', (VECTOR, off64_t at, int flags), fd, vector, count, at, flags)
WRAP(int, fallocate, 'W', (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
WRAP(int, fallocate64, 'W', (int fd, int mode, off64_t at, off64_t size), fd, mode, at, size)
WRAP(int, ftruncate, 'W', (int fd, off_t size), fd, size)
WRAP(int, ftruncate64, 'W', (int fd, off64_t size), fd, size)
WRAP(ssize_t, pread, 'R', (int fd, void *data, size_t size, off_t at), fd, data, size, at)
WRAP(ssize_t, pread64, 'R', (int fd, void *data, size_t size, off64_t at), fd, data, size, at)
WRAP(ssize_t, preadv, 'R', (VECTOR, off_t at), fd, vector, count, at)
WRAP(ssize_t, preadv64, 'R', (VECTOR, off64_t at), fd, vector, count, at)
WRAP(ssize_t, preadv2, 'R', (VECTOR, off_t at, int flags), fd, vector, count, at, flags)
WRAP(ssize_t, preadv64v2, 'R', (VECTOR, off64_t at, int flags), fd, vector, count, at, flags)
WRAP(int, fdatasync, 'F', (int fd), fd)
WRAP(int, fsync, 'F', (int fd), fd)
