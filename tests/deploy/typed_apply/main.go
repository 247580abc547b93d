// Typed-apply reads Kubernetes objects as YAML from stdin, and types each as the server does for server-side apply.
// It fails where the server would: an unknown field, a field given twice, two elements of a list with one merge key.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := typeAll(documents.NewYAMLReader(bufio.NewReader(os.Stdin))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func typeAll(reader *documents.YAMLReader) error {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	types := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return err
		}
		if bytes.Equal(content, []byte("null")) { // nothing but comments
			continue
		}
		object, kind, err := strict.Decode(content, nil, nil)
		if err != nil {
			return err
		}
		if _, err := types.ObjectToTyped(object); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
	}
}
