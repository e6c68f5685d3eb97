/*
 * The preload shim: the part of Twinrun that has to sit inside QEMU. It is loaded with LD_PRELOAD and does four things that
 * no outside process can do:
 *
 *   1. the output gate: a packet QEMU writes to a tap passes, waits in a ring of shared memory, or is dropped (`mode`). The
 *      engine releases what waits. Nobody else does, so when the engine is dead nothing leaves.
 *   2. opens the userfaultfd of QEMU's memory and notes which mappings are guest memory; the engine takes a duplicate of that
 *      descriptor (pidfd_getfd) and does the registering and scanning itself.
 *   3. quiet checkpoints: swallows the STOP and RESUME of each on QEMU's monitors while `quiet` is set.
 *   4. refuses, while `button_only` is set, to let libvirt shut the guest down through the agent in it.
 *
 * Everything is shared through a memfd called "twinrun-shim", found by the engine in /proc/PID/fd. `struct shared` below is
 * the format; src/memory/shim.ts and output-gate.ts are the other side. Change VERSION with any change of the layout
 * but a word that was free and that a shim which does not know it may ignore.
 *
 * Ring: `head`, `released` and `tail` are byte counters modulo 2^32; the place of a counter in the ring is its low bits. A
 * record is {u32 bytes, u32 fd} and the packet, padded to 8; bytes = SKIP means "go on at the ring's start". QEMU moves
 * `head`. The engine moves `released` past a record *before* it writes the packet (so a packet leaves at most once, also when
 * the engine dies in between) and `tail` after it (so that the room is not used again while the packet is being written).
 *
 * Lock: QEMU's writes take `lock` for the length of one packet. QEMU usually writes to taps under its big lock, but iothreads
 * need not. The engine takes it only to open the gate, so that no packet overtakes the held ones. QEMU never waits for the
 * engine: after a bounded spin it gets EAGAIN, keeps the packet in its own queue and tries again, as with a full tap.
 *
 * Lease: in that mode packets pass until `leased_until` and are held from then on, so that an engine that dies or hangs shuts the
 * gate by doing nothing. While any is held the later ones are held too: none overtakes.
 *
 * System calls are made directly: no dlsym, so it works before and during the start of libc, under QEMU's seccomp sandbox too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x4e525754 /* "TWRN" */, VERSION = 2, MAPPINGS = 256, RING_OFFSET = 8192, RING_BYTES_DEFAULT = 32 << 20 };
enum { MODE_OPEN, MODE_HELD, MODE_CLOSED, MODE_LEASED };
enum { LOCK_FREE, LOCK_QEMU, LOCK_ENGINE };
enum { MAPPING_SHARED = 1 };
#define SKIP 0xffffffffu

struct mapping { uint64_t address, bytes; uint32_t flags, order; };

struct shared {
  uint32_t magic, version, ring_bytes, ring_offset;
  uint32_t mode, quiet, armed, lock;             /* 16 */
  int32_t userfaultfd, userfault_error, wake_fd; /* 32 */
  uint32_t mapping_count;                        /* 44: slots used so far, bytes = 0 marks a free one */
  uint32_t mappings_lost, button_only, pad[2];   /* 48 */
  uint32_t head, packets_in, dropped, full;      /* 64: written by QEMU */
  uint32_t quieted, pad2[11];                    /* 80 */
  uint32_t released, tail, packets_out;          /* 128: written by the engine */
  uint32_t leased_until, pad3[12];               /* 140: milliseconds of CLOCK_MONOTONIC, modulo 2^32 */
  uint32_t pad4[208];                            /* 192 */
  struct mapping mappings[MAPPINGS];             /* 1024 */
};
_Static_assert(offsetof(struct shared, mappings) == 1024, "layout is shared with shim.ts");
_Static_assert(sizeof(struct shared) <= RING_OFFSET, "layout is shared with shim.ts");

static struct shared *shared; /* NULL: this process is none of our business */
static uint8_t *ring;

/* UFFD_USER_MODE_ONLY lets a QEMU without capabilities do it. It costs nothing: with WP_ASYNC the kernel resolves faults itself. */
static void open_userfaultfd(void) {
  enum { USER_MODE_ONLY = 1 };
  struct uffdio_api api = { .api = UFFD_API,
    .features = 1u << 0 /* PAGEFAULT_FLAG_WP */ | 1u << 12 /* HUGETLBFS_SHMEM */ | 1u << 13 /* UNPOPULATED */
      | 1u << 15 /* ASYNC */ };
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
  if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0) {
    shared->userfaultfd = fd;
    return;
  }
  shared->userfault_error = errno;
  if (fd >= 0) {
    close(fd);
  }
}

static bool is_wanted(void) {
  const char *name = program_invocation_short_name, *env = getenv("TWINRUN_SHIM");
  return strncmp(name, "qemu-system", 11) == 0 || strncmp(name, "qemu-kvm", 8) == 0 || (env && strcmp(env, "1") == 0);
}

__attribute__((constructor)) static void start(void) {
  if (!is_wanted()) {
    return;
  }
  unsetenv("TWINRUN_SHIM"); /* QEMU's helper programs are not QEMU. */
  const char *output = getenv("TWINRUN_OUTPUT"), *size = getenv("TWINRUN_RING_BYTES");
  uint32_t ring_bytes = size ? (uint32_t)strtoul(size, NULL, 10) : RING_BYTES_DEFAULT;
  if (ring_bytes < 4096 || ring_bytes > 1u << 30 || (ring_bytes & (ring_bytes - 1))) {
    ring_bytes = RING_BYTES_DEFAULT;
  }
  int fd = memfd_create("twinrun-shim", MFD_CLOEXEC);
  size_t bytes = RING_OFFSET + (size_t)ring_bytes;
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
    return;
  }
  void *at = (void *)syscall(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    return;
  }
  struct shared *fresh = at;
  fresh->version = VERSION;
  fresh->ring_bytes = ring_bytes;
  fresh->ring_offset = RING_OFFSET;
  fresh->mode = !output ? MODE_OPEN
    : strcmp(output, "held") == 0 ? MODE_HELD
    : strcmp(output, "closed") == 0 ? MODE_CLOSED : MODE_OPEN;
  fresh->userfaultfd = -1;
  fresh->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  ring = (uint8_t *)at + RING_OFFSET;
  shared = fresh;
  __atomic_store_n(&fresh->magic, MAGIC, __ATOMIC_RELEASE); /* Last: an engine that sees it sees the rest. */
}

/* ---- 1. output gate ---- */

static bool is_tap(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == makedev(10, 200);
}

static bool take_lock(void) {
  for (int tries = 0; tries < 2000; tries++) {
    uint32_t expected = LOCK_FREE;
    if (__atomic_compare_exchange_n(&shared->lock, &expected, LOCK_QEMU, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
      return true;
    }
    sched_yield();
  }
  return false;
}

/* QEMU asks again as soon as the tap is writable, which it always is: the short sleep keeps that loop from eating a core. */
static ssize_t refuse(void) {
  nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
  errno = EAGAIN;
  return -1;
}

static bool hold(int fd, const struct iovec *iov, int count, uint32_t bytes) {
  uint32_t head = shared->head, size = shared->ring_bytes, need = 8 + ((bytes + 7) & ~7u);
  uint32_t to_end = size - (head & (size - 1)), skip = need > to_end ? to_end : 0;
  if (need + skip > size - (head - __atomic_load_n(&shared->tail, __ATOMIC_SEQ_CST))) {
    __atomic_add_fetch(&shared->full, 1, __ATOMIC_RELAXED);
    return false;
  }
  if (skip) {
    memcpy(ring + (head & (size - 1)), &(uint32_t[2]){ SKIP, 0 }, 8);
    head += skip;
  }
  uint8_t *at = ring + (head & (size - 1));
  memcpy(at, &(uint32_t[2]){ bytes, (uint32_t)fd }, 8);
  at += 8;
  /* One record whatever the iovec looks like (vnet header, fragments): a tap takes one packet a write. */
  for (int i = 0; i < count; i++) {
    memcpy(at, iov[i].iov_base, iov[i].iov_len);
    at += iov[i].iov_len;
  }
  __atomic_add_fetch(&shared->packets_in, 1, __ATOMIC_RELAXED);
  __atomic_store_n(&shared->head, head + need, __ATOMIC_SEQ_CST);
  return true;
}

static bool passes(uint32_t mode) {
  struct timespec now;
  if (mode != MODE_LEASED || shared->head != __atomic_load_n(&shared->tail, __ATOMIC_SEQ_CST)
      || clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
    return mode == MODE_OPEN;
  }
  uint32_t now_ms = (uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
  return (int32_t)(__atomic_load_n(&shared->leased_until, __ATOMIC_SEQ_CST) - now_ms) > 0;
}

static void wake_engine(void) {
  if (__atomic_load_n(&shared->armed, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&shared->armed, 0, __ATOMIC_SEQ_CST)) {
    eventfd_write(shared->wake_fd, 1);
  }
}

static ssize_t gate(int fd, const struct iovec *iov, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) {
    bytes += iov[i].iov_len;
  }
  if (!take_lock()) {
    return refuse();
  }
  ssize_t result = (ssize_t)bytes;
  bool refused = false;
  uint32_t mode = __atomic_load_n(&shared->mode, __ATOMIC_SEQ_CST);
  if (passes(mode)) {
    result = syscall(SYS_writev, fd, iov, count);
  } else if (mode == MODE_CLOSED) {
    __atomic_add_fetch(&shared->dropped, 1, __ATOMIC_RELAXED);
  } else if (bytes > shared->ring_bytes / 4) { /* No tap takes such a packet (64 KiB at most). */
    errno = EMSGSIZE;
    result = -1;
  } else {
    refused = !hold(fd, iov, count, (uint32_t)bytes);
  }
  int error = errno;
  __atomic_store_n(&shared->lock, LOCK_FREE, __ATOMIC_SEQ_CST);
  wake_engine();
  errno = error;
  return refused ? refuse() : result;
}

ssize_t writev(int fd, const struct iovec *iov, int count) {
  return shared && is_tap(fd) ? gate(fd, iov, count) : syscall(SYS_writev, fd, iov, count);
}

ssize_t write(int fd, const void *from, size_t bytes) {
  /* Shorter than an Ethernet header: mostly eventfds, which are too frequent for an fstat each. */
  return shared && bytes >= 14 && is_tap(fd) ? gate(fd, &(struct iovec){ (void *)from, bytes }, 1)
    : syscall(SYS_write, fd, from, bytes);
}

/* ---- 2. guest memory ---- */

/* QEMU first reserves address space and then maps each RAM block into it with MAP_FIXED; that tells blocks from everything else. */
static void note_mapping(void *address, size_t bytes, int prot, int flags) {
  if (!shared || !(flags & MAP_FIXED) || !(prot & PROT_WRITE)) {
    return;
  }
  if (shared->userfaultfd < 0 && shared->userfault_error == 0) {
    open_userfaultfd(); /* Not in start(): with -daemonize the memory belongs to the forked child. */
  }
  static uint32_t order;
  uint32_t count = shared->mapping_count, slot = 0;
  while (slot < count && shared->mappings[slot].bytes != 0 && shared->mappings[slot].address != (uintptr_t)address) {
    slot++;
  }
  if (slot == MAPPINGS) {
    shared->mappings_lost++;
    return;
  }
  shared->mappings[slot] = (struct mapping){ (uintptr_t)address, bytes, flags & MAP_SHARED ? MAPPING_SHARED : 0,
    __atomic_add_fetch(&order, 1, __ATOMIC_RELAXED) };
  if (slot == count) {
    __atomic_store_n(&shared->mapping_count, count + 1, __ATOMIC_RELEASE);
  }
}

void *mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset) {
  void *at = (void *)syscall(SYS_mmap, address, bytes, prot, flags, fd, offset);
  if (at != MAP_FAILED) {
    note_mapping(at, bytes, prot, flags);
  }
  return at;
}
void *mmap64(void *address, size_t bytes, int prot, int flags, int fd, off_t offset) __attribute__((alias("mmap")));

int munmap(void *address, size_t bytes) {
  for (uint32_t slot = 0; shared && slot < shared->mapping_count; slot++) {
    struct mapping *mapping = &shared->mappings[slot];
    if (mapping->address >= (uintptr_t)address && mapping->address < (uintptr_t)address + bytes) {
      mapping->bytes = 0;
    }
  }
  return (int)syscall(SYS_munmap, address, bytes);
}

/* ---- 3. quiet checkpoints ---- */

/*
 * A STOP waits here until it is known whose it is. A checkpoint's is followed by its RESUME before QEMU answers anybody, and then
 * neither is sent; events of block jobs that are drained for it come between the two. One that somebody else caused is sent before
 * the next answer, which is that to whoever caused it: libvirt would otherwise take a paused guest for one that runs.
 */
enum { MONITORS = 8, LINE_BYTES = 160 };
enum event { OTHER, STOP, RESUME };
struct held_stop { size_t bytes; int fd; char line[LINE_BYTES]; };

static struct held_stop held_stops[MONITORS]; /* bytes = 0 marks a free one */
static uint32_t held_stops_count, held_stops_lock;

static bool ends_with(const char *line, size_t bytes, const char *tail, size_t tail_bytes) {
  return bytes > tail_bytes && memcmp(line + bytes - tail_bytes, tail, tail_bytes) == 0;
}

static bool begins_with(const struct msghdr *message, const char *start, size_t start_bytes) {
  const struct iovec *part = message->msg_iov;
  return message->msg_iovlen > 0 && part->iov_len >= start_bytes && memcmp(part->iov_base, start, start_bytes) == 0;
}

/* Exactly one event line and nothing else: {"timestamp": {…}, "event": "STOP"}\r\n. Half lines and batches are OTHER. */
static enum event read_event(const struct msghdr *message) {
  static const char start[] = "{\"timestamp\": {";
  static const char stop[] = "}, \"event\": \"STOP\"}\r\n", resume[] = "}, \"event\": \"RESUME\"}\r\n";
  if (message->msg_iovlen != 1 || message->msg_controllen != 0 || !begins_with(message, start, sizeof start - 1)) {
    return OTHER;
  }
  const char *line = message->msg_iov->iov_base;
  size_t bytes = message->msg_iov->iov_len;
  if (bytes > LINE_BYTES || memchr(line, '\n', bytes - 1) != NULL) {
    return OTHER;
  }
  if (ends_with(line, bytes, stop, sizeof stop - 1)) {
    return STOP;
  }
  return ends_with(line, bytes, resume, sizeof resume - 1) ? RESUME : OTHER;
}

static struct held_stop *find_held_stop(int fd) {
  for (struct held_stop *held = held_stops; held < held_stops + MONITORS; held++) {
    if (held->bytes != 0 && held->fd == fd) {
      return held;
    }
  }
  return NULL;
}

static void forget_held_stop(struct held_stop *held) {
  held->bytes = 0;
  __atomic_sub_fetch(&held_stops_count, 1, __ATOMIC_RELEASE);
}

static bool hold_stop(int fd, const struct iovec *line) {
  for (struct held_stop *held = held_stops; held < held_stops + MONITORS; held++) {
    if (held->bytes == 0) {
      memcpy(held->line, line->iov_base, line->iov_len);
      held->fd = fd;
      held->bytes = line->iov_len;
      __atomic_add_fetch(&held_stops_count, 1, __ATOMIC_RELEASE);
      return true;
    }
  }
  return false;
}

/* Whether the descriptor is free for the next message; errno says why not. */
static bool send_held_stop(struct held_stop *held, int flags) {
  ssize_t sent = syscall(SYS_sendto, held->fd, held->line, held->bytes, flags, NULL, 0);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
    return false;
  }
  if (sent >= 0 && (size_t)sent < held->bytes) {
    held->bytes -= (size_t)sent;
    memmove(held->line, held->line + sent, held->bytes);
    errno = EAGAIN;
    return false;
  }
  forget_held_stop(held); /* Sent, or nobody is there any more. */
  return true;
}

enum verdict { SEND, SWALLOW, TRY_AGAIN };

static enum verdict judge_message(int fd, const struct msghdr *message, int flags) {
  static const char greeting[] = "{\"QMP\": ", any_event[] = "{\"timestamp\": {";
  enum event event = read_event(message);
  struct held_stop *held = find_held_stop(fd);
  if (held != NULL && event == RESUME) {
    forget_held_stop(held);
    __atomic_add_fetch(&shared->quieted, 2, __ATOMIC_RELAXED);
    return SWALLOW;
  }
  if (held != NULL && begins_with(message, greeting, sizeof greeting - 1)) {
    forget_held_stop(held); /* The one whose it was has gone, and another has its descriptor. */
  } else if (held != NULL && !begins_with(message, any_event, sizeof any_event - 1) && !send_held_stop(held, flags)) {
    return TRY_AGAIN;
  }
  return event == STOP && shared->quiet && hold_stop(fd, message->msg_iov) ? SWALLOW : SEND;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (shared && (shared->quiet || __atomic_load_n(&held_stops_count, __ATOMIC_ACQUIRE) != 0)) {
    while (__atomic_exchange_n(&held_stops_lock, 1, __ATOMIC_ACQUIRE) != 0) {
      sched_yield();
    }
    enum verdict verdict = judge_message(fd, message, flags);
    __atomic_store_n(&held_stops_lock, 0, __ATOMIC_RELEASE);
    if (verdict != SEND) {
      return verdict == SWALLOW ? (ssize_t)message->msg_iov->iov_len : -1;
    }
  }
  return syscall(SYS_sendmsg, fd, message, flags);
}

/* ---- 4. the agent in the guest ---- */

/*
 * libvirt shuts a guest down through the agent in it, where there is one, and presses its power button when the agent refuses. Of
 * the agent the engine hears nothing, of the button it does before the guest has done anything (POWERDOWN). libvirt writes a
 * command in one piece and only when the one before is answered; a reboot is the guest's own affair and passes.
 */
static bool is_shutdown(const struct msghdr *message, ssize_t bytes) {
  static const char command[] = "{\"execute\":\"guest-shutdown\",", mode[] = "\"mode\":\"powerdown\"";
  const struct iovec *line = message->msg_iov;
  return bytes > 0 && (size_t)bytes <= line->iov_len && begins_with(message, command, sizeof command - 1)
    && ends_with(line->iov_base, (size_t)bytes, "\n", 1) && memmem(line->iov_base, (size_t)bytes, mode, sizeof mode - 1) != NULL;
}

static bool is_agent_channel(int fd) {
  static const char name[] = "/org.qemu.guest_agent.0";
  struct sockaddr_un address = { 0 };
  socklen_t bytes = sizeof address;
  return syscall(SYS_getsockname, fd, &address, &bytes) == 0 && address.sun_family == AF_UNIX
    && ends_with(address.sun_path, strnlen(address.sun_path, sizeof address.sun_path), name, sizeof name - 1);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  static const char refusal[] = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"the guest has two sides, and this one "
    "alone is to end: press its power button\"}}\n";
  ssize_t bytes = syscall(SYS_recvmsg, fd, message, flags);
  if (!shared || !shared->button_only || (flags & MSG_PEEK) || !is_shutdown(message, bytes) || !is_agent_channel(fd)) {
    return bytes;
  }
  syscall(SYS_sendto, fd, refusal, sizeof refusal - 1, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
  errno = EAGAIN; /* As if nothing had come. */
  return -1;
}
