// Region: the memory that tensors live in, and the account of what is abandoned.
//
// A region is anonymous memory that is read into, a private mapping of a file, or memory that is
// the caller's. It is shared by the tensors in it and by the lanes that fill it, and goes with the
// last of them. A tensor that dies earlier gives back the whole pages it had alone. Members may be
// called from any thread; disjoint ranges may be given back at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace fastio {

class File;

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

enum class HugePages { automatic, on, off };

class Region {
 public:
  // Fresh memory whose address is congruent to `file_offset` modulo the page size, so that a direct
  // read of aligned offsets lands on aligned addresses. Throws OutOfMemory.
  static std::shared_ptr<Region> allocate(std::uint64_t file_offset, std::size_t nbytes,
                                          HugePages huge_pages);

  // The whole file, or the pages of its range [begin, end), privately (copy on write). Throws
  // IoError.
  static std::shared_ptr<Region> map(const File& file);
  static std::shared_ptr<Region> map(const File& file, std::uint64_t begin, std::uint64_t end);

  // The caller's memory, which has to outlive the region; never freed nor advised here.
  static std::shared_ptr<Region> borrow(std::byte* data, std::uint64_t file_offset,
                                        std::size_t nbytes);

  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  // The address of the byte at `file_offset`.
  [[nodiscard]] std::byte* at(std::uint64_t file_offset) const {
    return data_ + (file_offset - file_offset_);
  }
  [[nodiscard]] std::uint64_t file_offset() const { return file_offset_; }
  [[nodiscard]] std::size_t nbytes() const { return nbytes_; }
  [[nodiscard]] bool mapped() const { return kind_ == Kind::mapping; }

  // Frees the memory of the pages that lie wholly in the file range [begin, end); they read as
  // zeros (a mapping: as the file) afterwards.
  void give_back(std::uint64_t begin, std::uint64_t end) const;

  // Of a mapping: pages that are missing come 2 MiB at a time, and ahead, where the kernel does it.
  void ask_for_huge_pages() const;
  // The pages of the file range [begin, end), which begins at one, come one by one from now on.
  void ask_for_single_pages(std::uint64_t begin, std::uint64_t end) const;

  // While a disk writes here, a child must not inherit the pages: copy on write would move one side
  // away.
  void hide_from_children() const;
  void show_to_children() const;

  // Counts this memory as abandoned until it is freed: a read is still out that nobody waits for.
  void abandon();

 private:
  enum class Kind { anonymous, mapping, borrowed };

  Region(std::byte* mapping, std::size_t mapping_bytes, std::byte* data, std::uint64_t file_offset,
         std::size_t nbytes, Kind kind);

  std::byte* mapping_;
  std::size_t mapping_bytes_;
  std::byte* data_;
  std::uint64_t file_offset_;
  std::size_t nbytes_;
  Kind kind_;
  std::atomic<bool> abandoned_{false};
};

// The size of the pages that memory and the page cache come in.
[[nodiscard]] std::size_t page_bytes();

// Bytes of this process that wait for a read which cannot be called back.
[[nodiscard]] std::uint64_t abandoned_bytes();

// A tensor's own share of a region, held by whoever holds the tensor.
class Share {
 public:
  Share(std::shared_ptr<const Region> region, std::uint64_t begin, std::uint64_t end)
      : region_(std::move(region)), begin_(begin), end_(end) {}
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;
  ~Share();

  [[nodiscard]] std::byte* data() const { return region_->at(begin_); }

 private:
  std::shared_ptr<const Region> region_;
  std::uint64_t begin_, end_;
};

}  // namespace fastio
