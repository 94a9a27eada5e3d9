#include "requests.h"

#include <doctest/doctest.h>

#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace fastio {
namespace {

using std::chrono::milliseconds;

// Completes requests in order, a given number at a time; none on the first call.
class SlowEngine : public Engine {
 public:
  explicit SlowEngine(std::size_t at_once, std::size_t* submitted)
      : at_once_(at_once), submitted_(submitted) {}

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& request : requests) out_.push_back(request);
    *submitted_ += requests.size();
  }
  std::size_t wait(std::span<Completion> completions, milliseconds /*timeout*/) override {
    if (std::exchange(first_, false)) return 0;
    std::size_t taken = 0;
    for (; taken < at_once_ && !out_.empty(); ++taken) {
      completions[taken] = {out_.front().tag, static_cast<std::int32_t>(out_.front().nbytes)};
      out_.pop_front();
    }
    return taken;
  }

 private:
  std::size_t at_once_;
  std::size_t* submitted_;
  std::deque<IoRequest> out_;
  bool first_ = true;
};

struct Sample {
  std::size_t submitted = 0;
  std::byte memory[64] = {};
  Requests requests{std::make_unique<SlowEngine>(2, &submitted), 4};

  void add(std::uint32_t tag) { requests.add({0, 0, memory, 16, tag}); }
};

TEST_CASE_FIXTURE(Sample, "requests are submitted together, and in flight until they are taken") {
  for (const std::uint32_t tag : {0U, 1U, 2U}) add(tag);
  CHECK(submitted == 0);
  CHECK(requests.in_flight() == 3);
  requests.submit();
  requests.submit();
  CHECK(submitted == 3);
  CHECK(requests.wait(milliseconds(1)).empty());
  CHECK(requests.in_flight() == 3);
  CHECK(requests.wait(milliseconds(1)).size() == 2);
  CHECK(requests.in_flight() == 1);
  const auto last = requests.wait(milliseconds(1));
  REQUIRE(last.size() == 1);
  CHECK(last[0].tag == 2);
  CHECK(requests.in_flight() == 0);
}

TEST_CASE_FIXTURE(Sample, "draining waits for submitted requests, and forgets the others") {
  for (const std::uint32_t tag : {0U, 1U, 2U}) add(tag);
  requests.submit();
  add(3);
  std::vector<std::uint32_t> taken;
  requests.drain([&](const Completion& completion) { taken.push_back(completion.tag); });
  CHECK(taken == std::vector<std::uint32_t>{0, 1, 2});
  CHECK(submitted == 3);
  CHECK(requests.in_flight() == 0);
}

TEST_CASE("a lane that makes no requests needs no engine") {
  Requests requests(nullptr, 4);
  requests.submit();
  requests.drain([](const Completion&) { FAIL("nothing can have come"); });
  CHECK(requests.in_flight() == 0);
}

}  // namespace
}  // namespace fastio
