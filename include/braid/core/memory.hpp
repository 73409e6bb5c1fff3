// Owned memory: Buffer (one allocation), Tensor (a buffer with a shape), Arena (scratch that is reused step after step).
#pragma once

#include <braid/core/view.hpp>

#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace braid {

/// Where memory comes from. One per memory space; allocation is rare, so a virtual call does not matter here.
class Memory {
 public:
  virtual void* allocate(std::size_t bytes) = 0;  ///< aligned to `alignment`; throws braid::Error when there is none left
  virtual void free(void* pointer) noexcept = 0;
  virtual void zero(void* pointer, std::size_t bytes) = 0;
  static constexpr std::size_t alignment = 256;

 protected:
  ~Memory() = default;
};

/// Bytes owned by this object, from a Memory that outlives it. Move-only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Memory& memory, std::size_t bytes)
      : memory_(&memory), data_(bytes ? memory.allocate(bytes) : nullptr), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Buffer() {
    if (data_) memory_->free(data_);
  }

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }
  void zero() {
    if (data_) memory_->zero(data_, bytes_);
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  Memory* memory_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A View that owns its elements. Zero-initialised.
template <class T, int Rank> class Tensor {
 public:
  Tensor() = default;
  template <class... Extent>
    requires(sizeof...(Extent) == Rank)
  explicit Tensor(Memory& memory, Extent... extent) : view_(nullptr, extent...) {
    buffer_ = Buffer(memory, static_cast<std::size_t>(view_.size()) * sizeof(T));
    buffer_.zero();
    view_.data = static_cast<T*>(buffer_.data());
  }
  View<T, Rank> view() const { return view_; }
  operator View<T, Rank>() const { return view_; }
  operator View<const T, Rank>() const { return view_; }
  T* data() const { return view_.data; }
  Index size() const { return view_.size(); }
  Index rows() const { return view_.rows(); }
  Index cols() const requires(Rank == 2) { return view_.cols(); }
  T* row(Index i) const { return view_.row(i); }
  template <class... I> T& operator()(I... index) const { return view_(index...); }
  void zero() { buffer_.zero(); }
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  View<T, Rank> view_;
};

/// Stack-like scratch memory. `take` hands out uninitialised views; a Scope gives them back. Blocks are kept and merged, so a
/// step that repeats allocates nothing. Not thread-safe: take before entering a parallel region.
class Arena {
 public:
  explicit Arena(Memory& memory) : memory_(&memory) {}

  /// Uninitialised elements, aligned to Memory::alignment, valid until the enclosing Scope ends.
  template <class T, class... Extent> View<T, sizeof...(Extent)> take(Extent... extent) {
    View<T, sizeof...(Extent)> view(nullptr, extent...);
    view.data = static_cast<T*>(bytes(static_cast<std::size_t>(view.size()) * sizeof(T)));
    return view;
  }
  /// As `take`, zeroed.
  template <class T, class... Extent> View<T, sizeof...(Extent)> take_zero(Extent... extent) {
    auto view = take<T>(extent...);
    memory_->zero(view.data, static_cast<std::size_t>(view.size()) * sizeof(T));
    return view;
  }

  /// Gives back, on destruction, everything taken since it was made.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_) {}
    ~Scope() { arena_.release(block_, used_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t block_, used_;
  };
  [[nodiscard]] Scope scope() { return Scope(*this); }

  /// Bytes reserved from the Memory.
  std::size_t reserved() const {
    std::size_t total = 0;
    for (const Buffer& block : blocks_) total += block.bytes();
    return total;
  }

 private:
  BRAID_NOINLINE void* bytes(std::size_t count) {
    count = (count + Memory::alignment - 1) / Memory::alignment * Memory::alignment;
    if (count == 0) count = Memory::alignment;
    while (block_ < blocks_.size() && used_ + count > blocks_[block_].bytes()) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      const std::size_t grown = reserved();
      blocks_.emplace_back(*memory_, grown > count ? grown : count);
      used_ = 0;
    }
    void* pointer = static_cast<std::byte*>(blocks_[block_].data()) + used_;
    used_ += count;
    return pointer;
  }

  BRAID_NOINLINE void release(std::size_t block, std::size_t used) {
    block_ = block;
    used_ = used;
    if (block_ == 0 && used_ == 0 && blocks_.size() > 1) {  // idle: merge into one block of the size that was needed
      const std::size_t total = reserved();
      blocks_.clear();
      blocks_.emplace_back(*memory_, total);
    }
  }

  Memory* memory_;
  std::vector<Buffer> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

}  // namespace braid
