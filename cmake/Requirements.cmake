# What a build needs of the machine. Everything that is missing is named at once, in a line that can be pasted.
#
# Sets FASTIO_XXHASH_INCLUDE, FASTIO_URING_INCLUDE, and FASTIO_INSTALL_URING, the advice where liburing is missing.

include(CheckLanguage)

set(missing "")
set(debian "")
set(fedora "")

check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  list(APPEND missing "a C++ compiler")
  list(APPEND debian g++)
  list(APPEND fedora gcc-c++)
endif()

find_path(FASTIO_XXHASH_INCLUDE xxhash.h)
if(NOT FASTIO_XXHASH_INCLUDE)
  list(APPEND missing "xxhash.h")
  list(APPEND debian libxxhash-dev)
  list(APPEND fedora xxhash-devel)
endif()

# Python's own words, since CMake's name the variables that it did not find, and no package.
if(SKBUILD)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('include'))"
    OUTPUT_VARIABLE headers OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  if(NOT EXISTS ${headers}/Python.h)
    list(APPEND missing "${headers}/Python.h")
    list(APPEND debian python${Python_VERSION_MAJOR}.${Python_VERSION_MINOR}-dev)
    list(APPEND fedora python3-devel)
  endif()
endif()

find_path(FASTIO_URING_INCLUDE liburing.h)
if(NOT FASTIO_URING_INCLUDE)
  list(APPEND debian liburing-dev)
  list(APPEND fedora liburing-devel)
endif()

function(fastio_paste_line result command)
  list(JOIN ARGN " " packages)
  set(${result} "    ${command} install ${packages}" PARENT_SCOPE)
endfunction()

if(missing)
  list(JOIN missing ", " missing)
  fastio_paste_line(debian_line apt-get ${debian})
  fastio_paste_line(fedora_line dnf ${fedora})
  message(FATAL_ERROR "To build fastio, this machine lacks: ${missing}\n"
    "On Debian and Ubuntu, run as root:\n${debian_line}\n"
    "On Fedora and RHEL:\n${fedora_line}\n"
    "Then run the same pip command again.")
endif()
set(FASTIO_INSTALL_URING "Run as root: apt-get install liburing-dev (Debian, Ubuntu); dnf install liburing-devel (Fedora)")
