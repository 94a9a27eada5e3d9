// Chunks that one process has verified are believed by the next one. The file must be in the same
// state and in the page cache, and nobody else may have written the record.
#include "trust.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "loader.h"
#include "loading.h"
#include "mapped.h"
#include "sample_file.h"

namespace fastio {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::first_difference;
using testing::load_to_the_end;
using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kChunk = 64 << 10;
constexpr std::uint64_t kChunks = 40;

// Seconds since a file was changed.
std::int64_t age_s(const SampleFile& sample) {
  struct stat status {};
  REQUIRE(stat(sample.path().c_str(), &status) == 0);
  return std::time(nullptr) - status.st_ctim.tv_sec;
}

// For tests that leave it as it is: it takes seconds until its timestamps are old enough.
const SampleFile& unchanged() {
  static const SampleFile sample(Place::disk, kChunk * kChunks);
  return sample;
}

// Records in a folder of their own, and a file that has not changed for some seconds.
struct Records {
  explicit Records(const SampleFile& of = unchanged()) : sample(of) {
    fs::remove_all(folder);
    settle();
  }
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;
  ~Records() { fs::remove_all(folder); }

  // Timestamps that are younger are not believed.
  void settle() const {
    sample.warm();
    while (age_s(sample) < 3) std::this_thread::sleep_for(100ms);
  }

  [[nodiscard]] LoadOptions options(MappingMode mapping = MappingMode::automatic) const {
    LoadOptions options;
    options.mapping = mapping;
    options.cache = CacheMode::keep;
    options.block_bytes = 4 * kChunk;
    options.trust_folder = folder;
    return options;
  }

  [[nodiscard]] ShardRequest request() const {
    return {{{File::open(sample.path())}}, {{0, kChunk * kChunks}}, sample.table(0, kChunk)};
  }

  [[nodiscard]] std::shared_ptr<LoadJob> load(const LoadOptions& options) const {
    return load_to_the_end({request()}, options);
  }

  // The only record.
  [[nodiscard]] std::string record() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder)) found.push_back(entry.path());
    REQUIRE(found.size() == 1);
    return found.front();
  }

  const std::string folder = fs::absolute("records-" + std::to_string(getpid()));
  const SampleFile& sample;
};

void check_counts(LoadJob& job, const SampleFile& sample, std::uint64_t verified) {
  CHECK_FALSE(job.has_failed());
  CHECK(job.counters().chunks_verified() == verified);
  CHECK(job.counters().chunks_trusted == kChunks - verified);
  CHECK(first_difference(job, sample) == "");
}

std::vector<std::string> fallbacks_of(const LoadJob& job) { return job.outcome().fallbacks(); }

TEST_CASE("what was verified once is believed, mapped and copied") {
  const Records records;
  check_counts(*records.load(records.options()), records.sample, kChunks);
  for (const MappingMode mapping : {MappingMode::automatic, MappingMode::never}) {
    const auto job = records.load(records.options(mapping));
    check_counts(*job, records.sample, 0);
    CHECK(fallbacks_of(*job).empty());
  }
  const auto mapped = MappedFile::open(records.request(), records.options());
  REQUIRE(mapped != nullptr);
  CHECK_FALSE(mapped->verify({0, 3 * kChunk}).has_value());
  CHECK(mapped->chunks_trusted() == 3);
  CHECK(mapped->chunks_verified() == 0);
}

TEST_CASE("part of a file is believed, and a tensor that was taken from a mapping") {
  const Records records;
  const auto mapped = MappedFile::open(records.request(), records.options());
  REQUIRE(mapped != nullptr);
  CHECK_FALSE(mapped->verify({kChunk, 3 * kChunk}).has_value());
  CHECK(mapped->chunks_verified() == 2);
  check_counts(*records.load(records.options()), records.sample, kChunks - 2);
}

TEST_CASE("nothing is believed past the page cache, in a survey, or unless it was asked for") {
  const Records records;
  check_counts(*records.load(records.options()), records.sample, kChunks);
  LoadOptions direct = records.options();
  direct.cache = CacheMode::bypass;
  const auto past = records.load(direct);
  if (!records.sample.in_memory()) CHECK(past->counters().chunks_trusted == 0);
  LoadOptions survey = records.options(MappingMode::never);
  survey.surveys = survey.persistent = true;
  CHECK(records.load(survey)->counters().chunks_trusted == 0);
  LoadOptions plain = records.options();
  plain.trust_folder.reset();
  check_counts(*records.load(plain), records.sample, kChunks);
}

TEST_CASE("a file that was changed is verified again, at once and later") {
  const SampleFile sample(Place::disk, kChunk * kChunks);
  const Records records(sample);
  check_counts(*records.load(records.options()), records.sample, kChunks);
  const std::size_t damaged = 7 * kChunk + 5;
  records.sample.overwrite(damaged, records.sample.bytes()[damaged] ^ std::byte{1});
  const auto at_once = records.load(records.options());
  REQUIRE(at_once->outcome().damage().has_value());
  CHECK(at_once->outcome().damage()->chunk == 7);
  if (age_s(sample) < 2) {
    REQUIRE(fallbacks_of(*at_once).size() == 1);
    CHECK(fallbacks_of(*at_once)[0].ends_with("a moment ago: all checksums are compared"));
  }
  records.settle();
  for (int again = 0; again < 2; ++again) {  // a damaged chunk is not put down
    const auto later = records.load(records.options());
    REQUIRE(later->outcome().damage().has_value());
    CHECK(later->outcome().damage()->chunk == 7);
    CHECK(fallbacks_of(*later).empty());
  }
}

TEST_CASE("other checksums of the same bytes are compared") {
  const Records records;
  check_counts(*records.load(records.options()), records.sample, kChunks);
  ShardRequest request = records.request();
  request.table = records.sample.table(0, 2 * kChunk);
  const auto job = load_to_the_end({std::move(request)}, records.options());
  CHECK(job->counters().chunks_trusted == 0);
  CHECK(job->counters().chunks_verified() == kChunks / 2);
}

TEST_CASE("a record that is damaged, cut or empty says nothing, and is written anew") {
  const Records records;
  const auto whole = [&] {
    check_counts(*records.load(records.options()), records.sample, 0);
    return fs::file_size(records.record());
  };
  check_counts(*records.load(records.options()), records.sample, kChunks);
  const auto nbytes = whole();
  {  // of each entry some bits are others
    std::fstream file(records.record(), std::ios::in | std::ios::out | std::ios::binary);
    std::vector<char> bytes(nbytes - 512);
    file.seekg(512).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    for (char& byte : bytes) byte ^= 0x10;
    file.seekp(512).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  check_counts(*records.load(records.options()), records.sample, kChunks);
  CHECK(whole() == nbytes);
  std::fstream(records.record(), std::ios::in | std::ios::out).put('F');  // the magic
  check_counts(*records.load(records.options()), records.sample, kChunks);
  CHECK(whole() == nbytes);
  for (const std::uintmax_t left : {std::uintmax_t{0}, std::uintmax_t{20}}) {
    fs::resize_file(records.record(), left);
    check_counts(*records.load(records.options()), records.sample, kChunks);
    CHECK(whole() == nbytes);
  }
  fs::resize_file(records.record(), 512 + 10 * 8 + 3);
  check_counts(*records.load(records.options()), records.sample, kChunks - 10);
}

TEST_CASE("a record that others could have written is refused, and the load says so") {
  const Records records;
  check_counts(*records.load(records.options()), records.sample, kChunks);
  const std::string record = records.record();
  const auto refused = [&](const std::string& why) {
    const auto job = records.load(records.options());
    check_counts(*job, records.sample, kChunks);
    REQUIRE(fallbacks_of(*job).size() == 1);
    CAPTURE(fallbacks_of(*job)[0]);
    CHECK(fallbacks_of(*job)[0].find(why) != std::string::npos);
    CHECK(fallbacks_of(*job)[0].ends_with(": all checksums are compared"));
  };
  const auto allow = [](const std::string& path, fs::perms perms) {
    fs::permissions(path, perms, fs::perm_options::add);
  };
  allow(record, fs::perms::group_write);
  refused("is of another user, or open to others");
  fs::permissions(record, fs::perms::owner_read | fs::perms::owner_write);
  allow(records.folder, fs::perms::others_exec);
  refused("is of another user, or open to others");
  fs::permissions(records.folder, fs::perms::owner_all);
  check_counts(*records.load(records.options()), records.sample, 0);

  fs::rename(record, records.folder + "-moved");
  fs::create_symlink(records.folder + "-moved", record);
  refused("Too many levels of symbolic links");
  fs::remove(record);
  fs::create_directory(record);
  refused("Is a directory");
  fs::remove(record);
  fs::rename(records.folder + "-moved", record);
  if (geteuid() == 0) {
    REQUIRE(chown(record.c_str(), 65534, 65534) == 0);
    refused("is of another user, or open to others");
    REQUIRE(chown(record.c_str(), 0, 0) == 0);
  }
  check_counts(*records.load(records.options()), records.sample, 0);

  fs::remove_all(records.folder);
  std::ofstream(records.folder) << "a file";
  refused("Not a directory");
  fs::remove(records.folder);
  fs::create_symlink("/tmp", records.folder);
  refused(records.folder);
  fs::remove(records.folder);
}

TEST_CASE("two jobs at once compare each chunk, or believe it") {
  const Records records;
  for (int round = 0; round < 5; ++round) {
    fs::remove_all(records.folder);
    const auto one = LoadJob::start({records.request()}, records.options());
    const auto other = LoadJob::start({records.request()}, records.options());
    for (const auto& job : {one, other}) {
      REQUIRE(job->wait_for(testing::kPatience));
      CHECK(job->counters().chunks_verified() + job->counters().chunks_trusted == kChunks);
      CHECK(first_difference(*job, records.sample) == "");
    }
  }
}

// Bytes of files that this process has mapped and touched (proc(5), RssFile).
std::int64_t mapped_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::int64_t kib = -1;
  while (status >> word) {
    if (word == "RssFile:") status >> kib;
  }
  REQUIRE(kib >= 0);
  return kib * 1024;
}

TEST_CASE("a long extent leaves no pages behind, whoever has verified it") {
  constexpr std::uint64_t kLong = std::uint64_t{24} << 20;
  const SampleFile sample(Place::disk, kLong);
  const Records records(sample);
  for (const bool trusted : {false, true}) {
    const ShardRequest request{
        {{File::open(sample.path())}}, {{0, kLong}}, sample.table(0, kChunk)};
    const auto mapped = MappedFile::open(request, records.options());
    REQUIRE(mapped != nullptr);
    const std::int64_t before = mapped_bytes();
    CHECK_FALSE(mapped->verify({0, kLong}).has_value());
    CHECK((mapped->chunks_trusted() != 0) == trusted);
    CHECK(mapped_bytes() - before < static_cast<std::int64_t>(kLong / 4));
  }
}

TEST_CASE("old records make room for new ones") {
  const Records records;
  fs::create_directory(records.folder);
  fs::permissions(records.folder, fs::perms::owner_all);
  for (int i = 0; i < 1100; ++i) std::ofstream(records.folder + "/old" + std::to_string(i)) << i;
  check_counts(*records.load(records.options()), records.sample, kChunks);
  const auto left = std::distance(fs::directory_iterator(records.folder), fs::directory_iterator());
  CHECK(left < 1024);
  CHECK(left > 500);
}

}  // namespace
}  // namespace fastio
