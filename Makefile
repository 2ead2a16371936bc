# The ways in: make build | run | test | bench | check.
#
# Each makes sure that the system packages are there, then hands over to `cargo xtask`, which does the work.

# To compile the project and the guest kernel. The kernel's source is not here: xtask takes it from
# linux-source-6.12 when that is installed and fetches it through apt otherwise. The keyring lets it check
# Debian's archive on systems that are not Debian.
BUILD_PACKAGES := gcc libc6-dev make flex bison bc libelf-dev patch xz-utils debian-archive-keyring

# To run virtual machines and their networks, and to make a first image to run.
RUN_PACKAGES := qemu-system-x86 e2fsprogs nftables iproute2 mmdebstrap

# The server of shared directories comes with QEMU up to Debian 12 and Ubuntu 22.04 (qemu-system-common), and is
# a package of its own since, which those do not know.
VIRTIOFSD := /usr/libexec/virtiofsd /usr/lib/virtiofsd /usr/bin/virtiofsd /usr/lib/qemu/virtiofsd
VIRTIOFSD_PACKAGE := virtiofsd

# To make more images, serve them from a registry, check what we make of them, and set the clock.
TEST_PACKAGES := busybox-static skopeo umoci docker-registry erofs-utils cpio libfaketime python3-venv

# The peers that the benches compare with (catatonit holds podman's pods together).
BENCH_PACKAGES := podman runc catatonit

export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: build run test bench check
build: packages-build cargo
	cargo xtask build

run: packages-run cargo
	cargo xtask run

test: packages-test cargo
	cargo xtask test

bench: packages-bench cargo
	cargo xtask bench

check: packages-check cargo
	cargo xtask check

.PHONY: packages-build packages-run packages-test packages-bench packages-check
packages-build packages-check: PACKAGES = $(BUILD_PACKAGES)
packages-run: PACKAGES = $(BUILD_PACKAGES) $(RUN_PACKAGES)
packages-test: PACKAGES = $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)
packages-bench: PACKAGES = $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES) $(BENCH_PACKAGES)

# Installs what is missing, and only then asks for root; the package lists are refreshed when they do not
# know a package or name a file that the mirror no longer has.
packages-build packages-check packages-run packages-test packages-bench: packages-%:
	@missing=''; \
	for package in $(PACKAGES); do \
		dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed \
			|| missing="$$missing $$package"; \
	done; \
	served=''; \
	case ' $(PACKAGES) ' in *' qemu-system-x86 '*) \
		case "$$missing " in *' qemu-system-x86 '*) ;; *) \
			ls $(VIRTIOFSD) 2>/dev/null | grep -q . || missing="$$missing $(VIRTIOFSD_PACKAGE)";; \
		esac;; \
	*) served='not needed';; esac; \
	[ -z "$$missing" ] && exit 0; \
	echo "installing:$$missing"; \
	if [ "$$(id -u)" = 0 ]; then root=''; \
	elif command -v sudo >/dev/null; then root='sudo'; \
	else echo "error: these packages are missing, and this is neither root nor is there sudo:$$missing" >&2; exit 1; fi; \
	install="$$root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends"; \
	$$install $$missing || { $$root apt-get update --quiet && $$install $$missing; } || exit; \
	[ -n "$$served" ] || ls $(VIRTIOFSD) 2>/dev/null | grep -q . || $$install $(VIRTIOFSD_PACKAGE)

.PHONY: cargo
cargo:
	@command -v cargo >/dev/null || { \
		echo 'error: cargo was not found' >&2; \
		echo 'hint: install Rust 1.95 or later, see https://rustup.rs' >&2; exit 1; }
