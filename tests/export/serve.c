/* Asks a SavedModel through TensorFlow's C API: no Python in the process.

   serve MODEL OUTPUT_FILE LIBRARY... -- INPUT_OP INDEX OUTPUT_OP INDEX FILE...

   Loads the libraries of operations, feeds the files' contents as a string [n], writes the numbers
   of the output (strings as lines), and prints its shape. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>
#include <tensorflow/c/tf_tstring.h>

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: code %d: %s\n", what, TF_GetCode(status), TF_Message(status));
  exit(2);
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(3);
}

static void read_file(const char *path, TF_TString *into) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path);
  fseek(file, 0, SEEK_END);
  size_t size = ftell(file);
  rewind(file);
  char *contents = malloc(size + 1);
  if (fread(contents, 1, size, file) != size) fail(path);
  fclose(file);
  TF_TString_Init(into);
  TF_TString_Copy(into, contents, size);
  free(contents);
}

static void no_python(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  while (maps && fgets(line, sizeof line, maps))
    if (strstr(line, "libpython")) fail(line);
  if (maps) fclose(maps);
}

static void keep(void *data, size_t length, void *arg) {}

int main(int argc, char **argv) {
  TF_Status *status = TF_NewStatus();
  int i = 3;
  for (; strcmp(argv[i], "--"); i++) {
    TF_LoadLibrary(argv[i], status);
    check(status, argv[i]);
  }
  char **rest = argv + i + 1;
  int64_t count = argc - i - 5;

  TF_Graph *graph = TF_NewGraph();
  const char *tags[] = {"serve"};
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, "load");

  TF_Output input = {TF_GraphOperationByName(graph, rest[0]), atoi(rest[1])};
  TF_Output output = {TF_GraphOperationByName(graph, rest[2]), atoi(rest[3])};
  if (!input.oper || !output.oper) fail("no such operation");
  TF_TString *strings = calloc(count, sizeof *strings);
  for (int64_t k = 0; k < count; k++) read_file(rest[4 + k], strings + k);
  size_t bytes = count * sizeof *strings;
  TF_Tensor *given = TF_NewTensor(TF_STRING, &count, 1, strings, bytes, keep, NULL), *found = NULL;
  TF_SessionRun(session, NULL, &input, &given, 1, &output, &found, 1, NULL, 0, NULL, status);
  check(status, "run");

  no_python();
  FILE *file = fopen(argv[2], "wb");
  if (TF_TensorType(found) == TF_STRING) {
    TF_TString *rows = TF_TensorData(found);
    for (int64_t k = 0; k < TF_TensorElementCount(found); k++)
      fprintf(file, "%.*s\n", (int)TF_TString_GetSize(rows + k), TF_TString_GetDataPointer(rows + k));
  } else {
    fwrite(TF_TensorData(found), 1, TF_TensorByteSize(found), file);
  }
  fclose(file);
  for (int d = 0; d < TF_NumDims(found); d++) printf("%lld ", (long long)TF_Dim(found, d));
  return 0;
}
