#include "entry.h"

#include <stddef.h>
#include <stdint.h>

// libFuzzer's own main, as a function.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one_input)(const uint8_t *bytes, size_t count));

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

// SwiftPM makes NAME_main the entry point of the executable NAME; a target's Swift file has none.
#define ENTRY(name)                                                                                                    \
    int name##_main(int argc, char **argv) { return LLVMFuzzerRunDriver(&argc, &argv, LLVMFuzzerTestOneInput); }

ENTRY(FooterFuzz)
ENTRY(FrameFuzz)
ENTRY(TOCFuzz)
ENTRY(MemberFuzz)
ENTRY(TarFuzz)
