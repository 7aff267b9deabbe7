import type { ReactNode } from "react";

function Icon({ children }: { children: ReactNode }): ReactNode {
  return (
    <svg className="icon" viewBox="0 0 20 20" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round">
      {children}
    </svg>
  );
}

export const Logo = (): ReactNode => (
  <svg className="logo" viewBox="0 0 24 24" aria-hidden="true">
    <path d="M7 2.5v19M17 2.5v19" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" opacity=".45" />
    <rect x="4" y="8" width="6" height="10" rx="1.6" fill="var(--down)" />
    <rect x="14" y="5" width="6" height="11" rx="1.6" fill="var(--up)" />
  </svg>
);

export const SearchIcon = (): ReactNode => (
  <Icon>
    <circle cx="9" cy="9" r="5.2" />
    <path d="m13 13 4 4" />
  </Icon>
);

export const CloseIcon = (): ReactNode => (
  <Icon>
    <path d="m5 5 10 10M15 5 5 15" />
  </Icon>
);

export const MenuIcon = (): ReactNode => (
  <Icon>
    <path d="M3.5 5.5h13M3.5 10h13M3.5 14.5h8" />
  </Icon>
);

export const SunIcon = (): ReactNode => (
  <Icon>
    <circle cx="10" cy="10" r="3.4" />
    <path d="M10 2.2v1.6M10 16.2v1.6M2.2 10h1.6M16.2 10h1.6M4.5 4.5l1.1 1.1M14.4 14.4l1.1 1.1M4.5 15.5l1.1-1.1M14.4 5.6l1.1-1.1" />
  </Icon>
);

export const MoonIcon = (): ReactNode => (
  <Icon>
    <path d="M16.5 11.8A6.8 6.8 0 0 1 8.2 3.5a6.8 6.8 0 1 0 8.3 8.3Z" />
  </Icon>
);

export const NewestIcon = (): ReactNode => (
  <Icon>
    <path d="m5 5 5 5-5 5M14.5 5v10" />
  </Icon>
);

export const CopyIcon = (): ReactNode => (
  <Icon>
    <rect x="7" y="7" width="9.5" height="9.5" rx="2" />
    <path d="M13 4.6A1.6 1.6 0 0 0 11.6 3.5H5A1.5 1.5 0 0 0 3.5 5v6.6A1.6 1.6 0 0 0 4.6 13" />
  </Icon>
);

export const DoneIcon = (): ReactNode => (
  <Icon>
    <path d="m4.5 10.5 3.6 3.6 7.4-8" />
  </Icon>
);

export const ChartIcon = (): ReactNode => (
  <Icon>
    <path d="M6 3v3M6 13v4M14 3v4M14 14v3" />
    <rect x="4" y="6" width="4" height="7" rx="1" />
    <rect x="12" y="7" width="4" height="7" rx="1" />
  </Icon>
);

export const KeyIcon = (): ReactNode => (
  <Icon>
    <circle cx="7" cy="13" r="3.5" />
    <path d="m9.6 10.4 6.4-6.4M13 7l2.5 2.5" />
  </Icon>
);

export const WarningIcon = (): ReactNode => (
  <Icon>
    <path d="M10 3.4 17.3 16H2.7L10 3.4ZM10 8.4v3.4M10 13.9v.1" />
  </Icon>
);
