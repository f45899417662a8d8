// mlcache-bench-fuse-loop FILE MOUNTPOINT THREADS: what a bare libfuse program reaches on this machine. Shows the bytes
// of FILE, mapped into memory, as MOUNTPOINT/file; every open drops the kernel's pages, so each read comes here. Runs
// until it is unmounted. With one thread it is libfuse's single-threaded loop.
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace {

constexpr fuse_ino_t kFile = 2;
constexpr double kForever = 1e9;
constexpr unsigned kReadaheadBytes = 1U << 20;

std::span<const char> Bytes(fuse_req_t request) {
  return *static_cast<const std::span<const char>*>(fuse_req_userdata(request));
}

struct stat Attributes(fuse_req_t request, fuse_ino_t node) {
  struct stat attributes{};
  attributes.st_ino = node;
  attributes.st_nlink = 1;
  attributes.st_mode = node == kFile ? S_IFREG | 0444 : S_IFDIR | 0555;
  attributes.st_size = node == kFile ? static_cast<off_t>(Bytes(request).size()) : 0;
  return attributes;
}

void Init(void* /*bytes*/, fuse_conn_info* connection) { connection->max_readahead = kReadaheadBytes; }

void Lookup(fuse_req_t request, fuse_ino_t /*parent*/, const char* name) {
  if (std::strcmp(name, "file") != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry{};
  entry.ino = kFile;
  entry.attr = Attributes(request, kFile);
  entry.attr_timeout = entry.entry_timeout = kForever;
  fuse_reply_entry(request, &entry);
}

void GetAttributes(fuse_req_t request, fuse_ino_t node, fuse_file_info* /*handle*/) {
  const struct stat attributes = Attributes(request, node);
  fuse_reply_attr(request, &attributes, kForever);
}

void Open(fuse_req_t request, fuse_ino_t /*node*/, fuse_file_info* handle) { fuse_reply_open(request, handle); }

void Read(fuse_req_t request, fuse_ino_t /*node*/, size_t size, off_t offset, fuse_file_info* /*handle*/) {
  const std::span<const char> bytes = Bytes(request);
  const size_t at = std::min(static_cast<size_t>(offset), bytes.size());
  const std::span<const char> part = bytes.subspan(at, std::min(size, bytes.size() - at));
  fuse_reply_buf(request, part.data(), part.size());
}

int Serve(fuse_session* session, const char* mountpoint, unsigned threads) {
  if (fuse_session_mount(session, mountpoint) != 0) return 1;
  int result = 0;
  if (threads == 1) {
    result = fuse_session_loop(session);
  } else {
    fuse_loop_config* config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, threads);
    fuse_loop_cfg_set_idle_threads(config, threads);
    result = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
  }
  fuse_session_unmount(session);
  return result == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long threads = argc == 4 ? std::strtoul(argv[3], nullptr, 10) : 0;
  if (threads == 0) {
    std::fprintf(stderr, "usage: mlcache-bench-fuse-loop FILE MOUNTPOINT THREADS\n");
    return 2;
  }
  const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat info{};
  if (fd < 0 || fstat(fd, &info) != 0) {
    std::fprintf(stderr, "mlcache-bench-fuse-loop: %s: %s\n", argv[1], std::strerror(errno));
    return 1;
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "mlcache-bench-fuse-loop: cannot map %s: %s\n", argv[1], std::strerror(errno));
    return 1;
  }
  std::span<const char> bytes(static_cast<const char*>(memory), size);

  fuse_lowlevel_ops operations{};
  operations.init = Init;
  operations.lookup = Lookup;
  operations.getattr = GetAttributes;
  operations.open = Open;
  operations.read = Read;
  fuse_args arguments = FUSE_ARGS_INIT(1, argv);
  fuse_session* session = fuse_session_new(&arguments, &operations, sizeof(operations), &bytes);
  if (session == nullptr) return 1;
  const int status = Serve(session, argv[2], static_cast<unsigned>(threads));
  fuse_session_destroy(session);
  munmap(memory, size);
  return status;
}
