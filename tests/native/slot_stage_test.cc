#include "slot_stage.h"

#include <doctest/doctest.h>

#include <vector>

namespace fastio {
namespace {

constexpr Stage kStages[] = {Stage::idle,    Stage::taken,   Stage::reading,
                             Stage::arrived, Stage::placing, Stage::copying};

TEST_CASE("a block goes to devices by way of the host, read once or more often") {
  SlotStage stage;
  for (const Stage next :
       {Stage::taken, Stage::reading, Stage::reading, Stage::arrived, Stage::reading,
        Stage::arrived, Stage::placing, Stage::copying, Stage::idle}) {
    stage.move_to(next);
    CHECK(stage == next);
  }
}

TEST_CASE("from every stage there is a way back to idle, and none skips its memory") {
  for (const Stage stage : kStages) {
    if (stage != Stage::idle) CHECK(may_follow(stage, Stage::idle));
    CHECK(may_follow(stage, Stage::taken) == (stage == Stage::idle));
  }
}

TEST_CASE("only bytes that were asked for arrive") {
  for (const Stage stage : kStages) {
    CHECK(may_follow(stage, Stage::arrived) == (stage == Stage::reading));
  }
}

TEST_CASE("nothing is put to its place that was not verified") {
  for (const Stage stage : kStages) {
    CHECK(may_follow(stage, Stage::placing) == (stage == Stage::arrived));
    CHECK(may_follow(stage, Stage::copying) == (stage == Stage::placing));
  }
}

}  // namespace
}  // namespace fastio
