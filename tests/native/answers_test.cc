// Which disks hang, by a fake clock.
#include "answers.h"

#include <doctest/doctest.h>

#include <array>

namespace fastio {
namespace {

using namespace std::chrono_literals;
using Read = Vigil::Read;
using Verdict = Vigil::Verdict;

constexpr auto kTimeout = 10s;

// Polls every 20 ms for the given time, as a lane does; true if it found an answer.
bool watch(Vigil& vigil, Vigil::Clock::time_point& now, Vigil::Duration how_long,
           std::span<const Read> reads) {
  for (const auto end = now + how_long; now < end;) {
    now += 20ms;
    if (vigil.pass(now) && vigil.look(reads)) return true;
  }
  return false;
}

struct Watched {
  Answers answers{{{7, 8}, {8}, {7, 7}}};
  Vigil vigil{answers, kTimeout};
  Vigil::Clock::time_point now = Vigil::Clock::now();
};

TEST_CASE("replicas on the same disk are told apart from those on others") {
  const Answers answers({{7, 8}, {8}, {7, 7}});
  CHECK(answers.disk_count() == 2);
  CHECK(answers.disk_of(0, 0) == answers.disk_of(2, 1));
  CHECK(answers.disk_of(0, 1) == answers.disk_of(1, 0));
  CHECK(answers.id_of(answers.disk_of(1, 0)) == 8);
}

TEST_CASE_FIXTURE(Watched, "a disk that has a read and brings nothing hangs after the timeout") {
  const std::array<Read, 1> reads{{{0, {}}}};
  CHECK_FALSE(watch(vigil, now, 9900ms, reads));
  CHECK_FALSE(answers.hangs(0));
  CHECK(watch(vigil, now, 200ms, reads));
  CHECK(vigil.found(0));
  CHECK_FALSE(vigil.found(1));
  CHECK(answers.hangs(2, 1));
  CHECK_FALSE(answers.hangs(1, 0));
}

TEST_CASE_FIXTURE(Watched, "reads of a disk that hangs are lost, of whatever age, and no others") {
  const std::array<Read, 3> reads{{{0, {}}, {0, 9s}, {1, 9s}}};
  for (const Read& read : reads) CHECK(vigil.judge(read) == Verdict::awaited);
  CHECK(watch(vigil, now, 11s, reads));
  CHECK(vigil.judge(reads[0]) == Verdict::lost);
  CHECK(vigil.judge(reads[1]) == Verdict::lost);
  CHECK(vigil.judge(reads[2]) == Verdict::awaited);
}

TEST_CASE_FIXTURE(Watched, "one that brings other reads does not") {
  const std::array<Read, 1> reads{{{0, {}}}};
  for (int i = 0; i < 10; ++i) {
    CHECK_FALSE(watch(vigil, now, 9s, reads));
    answers.came(0);
  }
  answers.came(1);  // it does not count for the other one
  CHECK(watch(vigil, now, 11s, reads));
}

TEST_CASE_FIXTURE(Watched, "a disk without a read has nothing to answer") {
  CHECK_FALSE(watch(vigil, now, 100s, {}));
  const std::array<Read, 1> fresh{{{1, vigil.time()}}};
  CHECK_FALSE(watch(vigil, now, 9900ms, fresh));
  CHECK(watch(vigil, now, 200ms, fresh));
}

TEST_CASE_FIXTURE(Watched, "time in which the process did not run does not count") {
  const std::array<Read, 1> reads{{{0, {}}}};
  static_cast<void>(vigil.pass(now));
  for (int i = 0; i < 50; ++i) {
    now += 1h;
    CHECK_FALSE((vigil.pass(now) && vigil.look(reads)));
  }
  CHECK(vigil.time() <= 50 * 100ms);
  now -= 2h;  // nor does a clock that goes back
  static_cast<void>(vigil.pass(now));
  CHECK(vigil.time() <= 51 * 100ms);
}

TEST_CASE_FIXTURE(Watched, "every lane sees a finding of one lane, once each") {
  Vigil other(answers, kTimeout);
  auto its_now = now;
  const std::array<Read, 1> reads{{{0, {}}}};
  CHECK(watch(vigil, now, 11s, reads));
  const std::array<Read, 1> young{{{0, other.time()}}};
  CHECK(watch(other, its_now, 100ms, young));
  CHECK(other.found(0));
  // New requests are judged anew.
  const std::array<Read, 1> again{{{0, other.time()}}};
  CHECK_FALSE(watch(other, its_now, 9s, again));
  CHECK(watch(other, its_now, 2s, again));
  // A later job has its own reads.
  Vigil later(answers, kTimeout);
  auto later_now = now;
  const std::array<Read, 1> its{{{0, later.time()}}};
  CHECK_FALSE(watch(later, later_now, 9s, its));
}

TEST_CASE("a disk owes an answer until each lost read has returned") {
  CHECK_FALSE(owes_answer(7));
  note_debt(7);
  note_debt(7);
  CHECK(owes_answer(7));
  CHECK_FALSE(owes_answer(8));
  note_answer(7);
  CHECK(owes_answer(7));
  note_answer(7);
  CHECK_FALSE(owes_answer(7));
  note_answer(7);  // of a read that was lost before a fork
  CHECK_FALSE(owes_answer(7));
}

TEST_CASE("a timeout is told as people write it") {
  CHECK(no_answer_for(10s) == "no answer in time (Options.root_timeout_s is 10 s)");
  CHECK(no_answer_for(300ms) == "no answer in time (Options.root_timeout_s is 0.3 s)");
}

}  // namespace
}  // namespace fastio
