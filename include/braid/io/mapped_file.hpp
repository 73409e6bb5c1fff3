// A file opened for reading: copies through read calls, and, on demand, a memory map.
#pragma once

#include <braid/core/error.hpp>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace braid::io {

/// A regular file, opened once for reading.
///
/// `read` copies a range with pread(2). If the file has been cut short meanwhile, it throws; touching a mapped page beyond
/// the new end would kill the process with SIGBUS, and checking the size first leaves a race. It is also the faster way to
/// copy (no page faults) and keeps the file's pages out of the process's resident size. `map` is for looking without copying.
class MappedFile {
 public:
  /// Throws Error if the file is missing, cannot be read, or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path) : path_(path.string()) {
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // non-blocking: a pipe must not hang us
    require(descriptor_ >= 0, path_, "a readable file", std::strerror(errno));
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(std::exchange(descriptor_, -1));
      throw Error(path_, "a regular file", "something else");
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
  }
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~MappedFile() {
    if (map_) ::munmap(map_, size_);
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }  ///< bytes when it was opened

  /// Copies `count` bytes at `offset`. Thread-safe. Throws Error if they are not there (any more).
  void read(std::uint64_t offset, void* to, std::size_t count) const {
    auto* out = static_cast<unsigned char*>(to);
    while (count > 0) {
      const ssize_t n = ::pread(descriptor_, out, count, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      require(n >= 0, path_, braid::detail::text("bytes at ", offset), std::strerror(errno));
      require(n > 0, path_, braid::detail::text(size_, " bytes"),
              braid::detail::text("its end at ", offset, ": the file has become shorter while it was read"));
      out += n;
      offset += static_cast<std::uint64_t>(n);
      count -= static_cast<std::size_t>(n);
    }
  }

  /// The whole file in memory, without a copy. Valid while this object lives and as long as nobody shortens the file: use it
  /// only for files under your own control.
  std::span<const unsigned char> map() {
    if (!map_ && size_ > 0) {
      void* pointer = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
      require(pointer != MAP_FAILED, path_, "a file that can be mapped", std::strerror(errno));
      map_ = pointer;
    }
    return {static_cast<const unsigned char*>(map_), static_cast<std::size_t>(size_)};
  }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(descriptor_, other.descriptor_);
    std::swap(size_, other.size_);
    std::swap(map_, other.map_);
  }
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  void* map_ = nullptr;
};

/// A whole text file. Throws Error if it is larger than `limit` bytes.
inline std::string read_text(const std::filesystem::path& path, std::uint64_t limit = std::uint64_t{256} << 20) {
  const MappedFile file(path);
  require(file.size() <= limit, file.path(), braid::detail::text("at most ", limit, " bytes"), file.size());
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

}  // namespace braid::io
