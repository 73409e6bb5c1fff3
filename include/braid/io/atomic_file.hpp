// A file that appears whole or not at all: written under a temporary name, synchronised, renamed.
#pragma once

#include <braid/core/error.hpp>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace braid::io {

/// Writes `path` through a temporary file in the same folder. Until `commit`, whatever was at `path` stays; a destroyed
/// AtomicFile that was not committed leaves nothing behind. A full disk is an Error from `write` or `sync`.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path) : path_(path.string()) {
    for (int attempt = 0; attempt < 100 && descriptor_ < 0; ++attempt) {
      temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) break;
    }
    require(descriptor_ >= 0, path_, "a folder that can be written to", std::strerror(errno));
  }
  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)), temporary_(std::move(other.temporary_)), descriptor_(std::exchange(other.descriptor_, -1)),
        pending_(std::exchange(other.pending_, false)) {}
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (pending_) ::unlink(temporary_.c_str());
  }

  /// Appends bytes.
  void write(const void* from, std::size_t count) {
    auto* in = static_cast<const unsigned char*>(from);
    while (count > 0) {
      const ssize_t n = ::write(descriptor_, in, count);
      if (n < 0 && errno == EINTR) continue;
      require(n > 0, path_, "room to write", n < 0 ? std::strerror(errno) : "none");
      in += n;
      count -= static_cast<std::size_t>(n);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the temporary file durable and closes it. Errors that the kernel kept back until now appear here.
  void sync() {
    if (descriptor_ < 0) return;
    require(::fsync(descriptor_) == 0, path_, "data that reaches the disk", std::strerror(errno));
    require(::close(std::exchange(descriptor_, -1)) == 0, path_, "data that reaches the disk", std::strerror(errno));
  }

  /// Syncs, then replaces `path`.
  void commit() {
    sync();
    require(::rename(temporary_.c_str(), path_.c_str()) == 0, path_, "a name that can be replaced", std::strerror(errno));
    pending_ = false;
    sync_folder(std::filesystem::path(path_).parent_path());
  }

 private:
  /// Makes the rename durable. Some file systems cannot; the data itself is safe then.
  static void sync_folder(const std::filesystem::path& folder) {
    const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    ::fsync(descriptor);
    ::close(descriptor);
  }
  std::string path_, temporary_;
  int descriptor_ = -1;
  bool pending_ = true;
};

/// Replaces a file by `text`.
inline void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace braid::io
